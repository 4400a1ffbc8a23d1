"""Activations that exporters write as several operations, as the layers of torch that they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import add, mul, truediv
from typing import Any

import torch
from torch import fx, nn

_TOLERANCE = 1e-3


def with_fused_activations(module: fx.GraphModule) -> fx.GraphModule:
    """Replace sequences of operations by SiLU, hard swish, GELU and Mish; changes and returns ``module``.

    Args:
        module: a converted network.
    """
    changed = 0
    for node in list(module.graph.nodes):
        for match, layer in _PATTERNS:
            if (source := match(module, node)) is not None:
                changed += 1
                name = f"{layer.__name__.lower()}_{changed}"
                while hasattr(module, name):
                    name += "_"
                module.add_submodule(name, layer())
                with module.graph.inserting_after(node):
                    node.replace_all_uses_with(module.graph.call_module(name, (source,)))
                break
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    inside = {f"{name}." for name, layer in module.named_modules() if name and any(n.target == name for n in module.graph.nodes)}
    for name in [n for n, _ in (*module.named_parameters(), *module.named_buffers())]:
        if name not in used and not any(name.startswith(prefix) for prefix in inside):
            owner, _, key = name.rpartition(".")
            delattr(module.get_submodule(owner), key)
    module.recompile()
    return module


def _product(node: Any) -> tuple[Any, Any] | None:
    return (node.args[0], node.args[1]) if isinstance(node, fx.Node) and node.target is mul else None


def _layer(module: fx.GraphModule, node: Any, kind: type[nn.Module]) -> Any:
    """The input of a node that applies a layer of this kind; else None."""
    if isinstance(node, fx.Node) and node.op == "call_module" and type(module.get_submodule(str(node.target))) is kind:
        return node.args[0]
    return None


def _gated(kind: type[nn.Module]) -> Callable[[fx.GraphModule, Any], Any]:
    """A match of ``x * layer(x)``."""

    def match(module: fx.GraphModule, node: Any) -> Any:
        for x, gate in _either(node, mul):
            if isinstance(x, fx.Node) and _layer(module, gate, kind) is x:
                return x
        return None

    return match


def _either(node: Any, function: Callable[..., Any]) -> list[tuple[Any, Any]]:
    if not isinstance(node, fx.Node) or node.target is not function or len(node.args) != 2:
        return []
    a, b = node.args
    return [(a, b), (b, a)]


def _scaled(node: Any, factor: float) -> Any:
    """The x of ``x * factor`` or ``x / (1 / factor)``; else None."""
    for x, number in _either(node, mul):
        if isinstance(number, float) and math.isclose(number, factor, rel_tol=_TOLERANCE):
            return x
    if isinstance(node, fx.Node) and node.target is truediv and isinstance(node.args[1], float):
        return node.args[0] if math.isclose(node.args[1], 1 / factor, rel_tol=_TOLERANCE) else None
    return None


def _hard_gate(module: fx.GraphModule, node: Any) -> Any:
    """The x of ``relu6(x + 3)``; else None."""
    for x, number in _either(_layer(module, node, nn.ReLU6), add):
        if number == 3:
            return x
    return None


def _hard_swish(module: fx.GraphModule, node: Any) -> Any:
    """The x of ``x * relu6(x + 3) / 6``, in any order; else None."""
    for x, gate in _either(_scaled(node, 1 / 6), mul):
        if x is not None and _hard_gate(module, gate) is x:
            return x
    for x, gate in _either(node, mul):
        if isinstance(x, fx.Node) and _hard_gate(module, _scaled(gate, 1 / 6)) is x:
            return x
        if isinstance(x, fx.Node) and (inner := _scaled(x, 1 / 6)) is not None and _hard_gate(module, gate) is inner:
            return inner
    return None


def _hard_sigmoid(module: fx.GraphModule, node: Any) -> Any:
    """The x of ``relu6(x + 3) / 6``; else None."""
    return _hard_gate(module, _scaled(node, 1 / 6))


def _gelu(module: fx.GraphModule, node: Any) -> Any:
    """The x of ``x * (1 + erf(x / sqrt(2))) / 2``, in any order; else None."""
    candidates = [(a, b, 1.0) for a, b in _either(_scaled(node, 0.5), mul)]
    for a, b in _either(node, mul):
        if (half := _scaled(a, 0.5)) is not None:
            candidates.append((half, b, 1.0))
        if (half := _scaled(b, 0.5)) is not None:
            candidates.append((a, half, 1.0))
    for x, gate, _ in candidates:
        for erf, one in _either(gate, add):
            if one == 1 and isinstance(erf, fx.Node) and erf.target is torch.erf and _scaled(erf.args[0], math.sqrt(0.5)) is x:
                return x
    return None


def _mish(module: fx.GraphModule, node: Any) -> Any:
    """The x of ``x * tanh(softplus(x))``; else None."""
    for x, gate in _either(node, mul):
        if isinstance(x, fx.Node) and _layer(module, _layer(module, gate, nn.Tanh), nn.Softplus) is x:
            return x
    return None


_PATTERNS: tuple[tuple[Callable[[fx.GraphModule, Any], Any], type[nn.Module]], ...] = (
    (_hard_swish, nn.Hardswish),
    (_hard_sigmoid, nn.Hardsigmoid),
    (_gated(nn.Sigmoid), nn.SiLU),
    (_gated(nn.Hardsigmoid), nn.Hardswish),
    (_gelu, nn.GELU),
    (_mish, nn.Mish),
)
