"""Insertion of fake quantization at the tensors that integer kernels read and write, as in our INT8 files."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, stochastic_depth

from planish.errors import TechniqueError, first_line
from planish.models.folding import fold_batch_norm
from planish.models.outputs import Graph
from planish.models.quantized import LAYERS, ActivationQuantizer
from planish.models.tracing import trace_graph

# Operations with an integer kernel: their inputs and output are quantized.
_ARITHMETIC = {
    operator.add, operator.iadd, torch.add, "add", "add_", operator.mul, operator.imul, torch.mul, "mul", "mul_", torch.cat, torch.concat,
    torch.sigmoid, F.sigmoid, "sigmoid", torch.mean, "mean", F.avg_pool2d, F.adaptive_avg_pool2d,
    nn.Sigmoid, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
}  # fmt: skip
# Operations that move values without changing them; they also run on integers.
_MOVES = {
    F.max_pool2d, torch.flatten, "flatten", "view", "reshape", torch.reshape, "permute", torch.permute, "transpose", torch.transpose,
    "contiguous", "chunk", torch.chunk, "split", torch.split, operator.getitem, "squeeze", torch.squeeze, "unsqueeze", torch.unsqueeze,
    F.dropout, stochastic_depth, nn.MaxPool2d, nn.Flatten, nn.Dropout, StochasticDepth,
}  # fmt: skip
_RELU = {nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"}
_RELU6 = {nn.ReLU6, F.relu6}
# Activations that are x times a gate: the product has an integer kernel, the activation itself has none.
_GATED: dict[object, Callable[..., Any]] = {
    nn.SiLU: torch.sigmoid,
    F.silu: torch.sigmoid,
    nn.Hardswish: F.hardsigmoid,
    F.hardswish: F.hardsigmoid,
}


class QuantizedGraph(Graph):
    """The graph of a network with an ``ActivationQuantizer`` at each tensor that integer kernels read or write."""

    def quantizers(self) -> dict[str, ActivationQuantizer]:
        """The quantizers, by the name of the tensor that they quantize."""
        return {name.removeprefix("quantizer."): m for name, m in self.named_modules() if isinstance(m, ActivationQuantizer)}

    def layers(self) -> list[tuple[str, nn.Conv2d | nn.Linear, ActivationQuantizer]]:
        """The names and modules of convolution and linear layers in the order in which they run, each with the quantizer of its input."""
        found = {}
        for node in self.graph.nodes:
            if isinstance(layer := _called(node, self), LAYERS):
                quantizer = self.get_submodule(str(_source(node.args[0], self).target))
                assert isinstance(quantizer, ActivationQuantizer)
                found[str(node.target)] = (str(node.target), layer, quantizer)
        return list(found.values())


def place(module: nn.Module, channels: int, height: int, width: int) -> QuantizedGraph:
    """Trace the network, fold batch norm, and insert a quantizer wherever the runtimes need one to compute in integers.

    ReLU and ReLU6 before a quantizer are removed, as quantization to unsigned values clips in the same way. The network's outputs and all
    operations without an integer kernel stay float.

    Args:
        module: the network; not changed.
        channels: channels of the images.
        height: height of the images.
        width: width of the images.

    Raises:
        TechniqueError: the network cannot be traced, or it has no convolution and no linear layer.
    """
    module = copy.deepcopy(module).eval()
    fold_batch_norm(module)
    try:
        graph = QuantizedGraph(module, trace_graph(module))
    except Exception as error:  # the network's code may raise anything when given a proxy instead of a tensor
        raise TechniqueError(
            f"the network's code hides its graph: {first_line(error)}",
            "quantizers stand between its operations, so forward must not branch on what is in a tensor",
            "quantize the exported file instead: to_onnx, int8",
        ) from error
    _simplify(graph)
    like = next(module.parameters(), torch.empty(0))
    with torch.no_grad():
        ShapeProp(graph).propagate(torch.zeros(1, channels, height, width, device=like.device, dtype=like.dtype))
    chosen = _chosen(graph)
    for node in list(graph.graph.nodes):
        if node in chosen:
            _insert(graph, node)
    graph.graph.lint()
    graph.recompile()
    graph.delete_all_unused_submodules()
    if not graph.layers():
        raise TechniqueError("the network has no convolution and no linear layer", "those are what INT8 speeds up", "leave this step out")
    return graph


@torch.no_grad()
def calibrate(graph: QuantizedGraph, batches: Iterable[Tensor]) -> None:
    """Set the range of every quantizer to the minimum and maximum on ``batches`` of normalised images, computed in float."""
    seen: dict[nn.Module, tuple[float, float]] = {}

    def watch(quantizer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        assert isinstance(quantizer, ActivationQuantizer)
        x = inputs[0].clamp(0, quantizer.limit) if quantizer.rectified else inputs[0]
        lowest, highest = seen.get(quantizer, (math.inf, -math.inf))
        seen[quantizer] = min(lowest, float(x.min())), max(highest, float(x.max()))
        return x

    handles = [quantizer.register_forward_hook(watch) for quantizer in graph.quantizers().values()]
    try:
        for images in batches:
            graph(images)
    finally:
        for handle in handles:
            handle.remove()
    for name, quantizer in graph.quantizers().items():
        lowest, highest = seen[quantizer]
        if not math.isfinite(lowest) or not math.isfinite(highest):
            raise TechniqueError(f"{name} is {lowest} to {highest} on calibration images", "values must be finite", "train it again")
        quantizer.set_range(lowest, highest)


def _kind(node: fx.Node, module: nn.Module) -> object:
    """What the node calls: the type of a module, a function, or the name of a method; None if it calls nothing."""
    if (called := _called(node, module)) is not None:
        return type(called)
    return node.target if node.op in ("call_function", "call_method") else None  # a buffer may be called "mean"


def _called(node: fx.Node, module: nn.Module) -> nn.Module | None:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node that are tensors or tuples of tensors, including constants."""
    return [n for n in node.all_input_nodes if n.op == "get_attr" or "tensor_meta" in n.meta]


def _source(node: fx.Node, module: nn.Module) -> fx.Node:
    """The node that computes a tensor; nodes that only move values are skipped, but not the item of a tuple output (of an LSTM)."""
    while _kind(node, module) in _MOVES:
        before = node.all_input_nodes[0]
        if _kind(before, module) not in _MOVES and isinstance(before.meta.get("tensor_meta"), tuple) and not _is_tensor(before):
            break
        node = before
    return node


def _is_tensor(node: fx.Node) -> bool:
    """Whether the node outputs a single tensor."""
    return hasattr(node.meta.get("tensor_meta"), "shape")


def _simplify(graph: QuantizedGraph) -> None:
    """Remove identities, and replace SiLU and hard-swish by a gate and a product."""
    for node in list(graph.graph.nodes):
        if _kind(node, graph) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif (gate_of := _GATED.get(_kind(node, graph))) is not None:
            with graph.graph.inserting_before(node):
                gate = graph.graph.call_function(gate_of, (node.args[0],))
                product = graph.graph.call_function(operator.mul, (node.args[0], gate))
            node.replace_all_uses_with(product)
            graph.graph.erase_node(node)


def _chosen(graph: QuantizedGraph) -> set[fx.Node]:
    """The tensors to quantize, given by the nodes that output them."""
    chosen: set[fx.Node] = set()
    for node in graph.graph.nodes:
        kind, inputs = _kind(node, graph), _tensors(node)
        is_layer = isinstance(_called(node, graph), LAYERS)
        if not is_layer and (kind not in _ARITHMETIC or "tensor_meta" not in node.meta or any(n.op == "get_attr" for n in inputs)):
            continue
        chosen.update(_source(n, graph) for n in inputs)
        if not isinstance(_called(node, graph), nn.Linear):  # linear layers have integer kernels with float output
            chosen.add(node)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    chosen -= {_source(node, graph) for node in output.all_input_nodes}
    chosen = {node for node in chosen if _is_real(node.meta.get("tensor_meta"))}
    for node in list(chosen):
        before = node.all_input_nodes[0] if node.all_input_nodes else node
        if _kind(node, graph) in _RELU | _RELU6 and len(before.users) == 1:
            chosen.discard(before)
    return chosen


def _is_real(meta: object) -> bool:
    """Whether a node outputs real numbers; complex ones (Fourier transforms), whole ones and masks are not quantized."""
    dtype = getattr(meta, "dtype", None)
    return dtype is None or bool(dtype.is_floating_point)


def _insert(graph: QuantizedGraph, node: fx.Node) -> None:
    kind = _kind(node, graph)
    rectified = kind in _RELU | _RELU6
    target = f"quantizer.{node.name}"
    like = next(graph.parameters(), torch.empty(0))
    graph.add_submodule(target, ActivationQuantizer(rectified, 6.0 if kind in _RELU6 else math.inf).to(like.device))
    with graph.graph.inserting_after(node):
        quantizer = graph.graph.call_module(target, (node,))
    node.replace_all_uses_with(quantizer, delete_user_cb=lambda user: user is not quantizer)
    if rectified:
        quantizer.args = (node.all_input_nodes[0],)
        graph.graph.erase_node(node)
