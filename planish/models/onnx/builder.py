"""A torch.fx graph that is built node by node, with the shape of every tensor."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from operator import add, getitem, mul
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.fx.node import map_aggregate

from planish.models.onnx.values import BATCHES, Array, GraphTensor, N, Size, at


class Builder:
    """Builds the graph of a network that takes images ``(N, C, H, W)``.

    Args:
        channels: of the images.
        height: in pixels.
        width: in pixels.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fake:
            examples = tuple(torch.empty(batch, channels, height, width) for batch in BATCHES)
        self.images = GraphTensor(self.graph.placeholder("images"), examples, (0, 1, 2, 3), learned=False)
        self._batch: fx.Node | None = None
        self._layers: dict[tuple[Any, ...], str] = {}
        self._shared: set[str] = set()
        self._names: set[str] = set()
        self._constants = 0

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> GraphTensor:
        """Add a call of a function.

        Args:
            function: a function of torch, or ``operator``.
            args: may contain tensors of the graph (their axes as they are), constant arrays, and sizes that depend on the batch size.
            kwargs: likewise.
        """
        arguments = map_aggregate((args, kwargs), lambda a: self.constant(a) if isinstance(a, np.ndarray) else a)
        learned = any(tensor.learned for tensor in _tensors(arguments))
        args, kwargs = map_aggregate(arguments, self._node_of)
        node = self.graph.call_function(function, args, kwargs)
        return self._result(node, learned, lambda i: function(*_example(arguments, i)[0], **_example(arguments, i)[1]))

    def items(self, function: Callable[..., Any], count: int, *args: Any) -> list[GraphTensor]:
        """Add a call of a function that returns a tuple of ``count`` tensors, and return those."""
        parts = self.call(function, *args)
        return [self._item(parts, index) for index in range(count)]

    def apply(self, layer: nn.Module, name: str, tensor: GraphTensor, *, key: tuple[Any, ...] = (), items: int = 0) -> Any:
        """Add a layer and apply it to a tensor.

        Args:
            layer: the layer; ignored if one with the same ``key`` exists, which is applied again.
            name: wanted name; it is extended if it is taken.
            tensor: its axes are taken as they are.
            key: identifies the weights and settings of a layer that may be shared; empty if it is not shared.
            items: number of tensors that the layer returns as a tuple; 0 if it returns one tensor.
        """
        if key and key in self._layers:
            target = self._layers[key]
            layer = self.root.get_submodule(target)
            self._shared.add(target)
        else:
            target = self._layers[key or (name, len(self._layers))] = self._free(name)
            _set(self.root, target, layer)
        learned = tensor.learned or any(True for _ in layer.parameters())
        node = self.graph.call_module(target, (tensor.node,))
        result = self._result(node, learned, lambda i: layer(tensor.examples[i]))
        return [self._item(result, index) for index in range(items)] if items else result

    def layer_of(self, tensor: GraphTensor) -> nn.Module | None:
        """The layer that computes a tensor, unless it is applied several times; None if none does."""
        target = str(tensor.node.target)
        if tensor.node.op != "call_module" or target in self._shared:
            return None
        return self.root.get_submodule(target)

    def keep_apart(self, tensor: GraphTensor) -> None:
        """Let nodes that come later not share the layer that computes a tensor, since it is changed."""
        self._layers = {key: target for key, target in self._layers.items() if target != tensor.node.target}

    def constant(self, values: Array, *, learned: bool = False, name: str = "") -> GraphTensor:
        """Put a constant into the graph.

        Args:
            values: any array.
            learned: whether it is a parameter, which training changes.
            name: wanted name.
        """
        tensor = torch.from_numpy(np.array(values))
        if tensor.is_floating_point():
            tensor = tensor.float()
        self._constants += 1
        target = self._free(name or f"constant_{self._constants}")
        if learned and tensor.is_floating_point():
            _set(self.root, target, nn.Parameter(tensor))
        else:
            _set(self.root, target, tensor)
        node = self.graph.get_attr(target)
        with self._fake:
            examples = tuple(torch.empty(tensor.shape, dtype=tensor.dtype) for _ in BATCHES)
        return GraphTensor(node, examples, tuple(range(tensor.ndim)), learned=False)

    def in_order(self, tensor: GraphTensor) -> GraphTensor:
        """The tensor with the axes of its node in order; permuted only if they are not."""
        return tensor if tensor.in_order else self.call(torch.permute, tensor, tensor.order)

    def ordered_as(self, tensor: GraphTensor, order: Sequence[int]) -> GraphTensor:
        """The tensor with this ``order``; permuted only if it has another."""
        if tensor.order == tuple(order):
            return tensor
        inverse = np.argsort(order).tolist()
        return in_order_of(self.call(torch.permute, tensor, [tensor.order[axis] for axis in inverse]), order)

    def finished(self, outputs: dict[str, GraphTensor]) -> fx.GraphModule:
        """The network; it returns a tensor if there is one output, else a dictionary."""
        nodes = {name: self.in_order(tensor).node for name, tensor in outputs.items()}
        self.graph.output(nodes if len(nodes) > 1 else next(iter(nodes.values())))
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph, "ConvertedNetwork")

    def _result(self, node: fx.Node, learned: bool, run: Callable[[int], Any]) -> GraphTensor:
        logger = logging.getLogger("torch._subclasses.fake_tensor")
        disabled, logger.disabled = logger.disabled, True  # it logs errors that are raised as well
        try:
            with torch.no_grad(), self._fake:
                found = tuple(run(i) for i in range(len(BATCHES)))
        finally:
            logger.disabled = disabled
        rank = found[0].ndim if isinstance(found[0], Tensor) else 0
        return GraphTensor(node, found, tuple(range(rank)), learned)

    def _item(self, parts: GraphTensor, index: int) -> GraphTensor:
        node = self.graph.call_function(getitem, (parts.node, index))
        return self._result(node, parts.learned, lambda i: parts.examples[i][index])

    def _node_of(self, argument: Any) -> Any:
        if isinstance(argument, GraphTensor):
            return argument.node
        return self._size_node(argument) if isinstance(argument, sympy.Basic) else argument

    def _size_node(self, size: Size) -> Any:
        """A node that computes a size from the batch size of the images."""
        if not size.free_symbols:
            return int(size)
        if self._batch is None:
            with self.graph.inserting_after(self.images.node):
                self._batch = self.graph.call_method("size", (self.images.node, 0))
        slope, rest = sympy.Poly(size, N).coeff_monomial(N), sympy.Poly(size, N).coeff_monomial(1)
        node = self._batch if slope == 1 else self.graph.call_function(mul, (self._batch, int(slope)))
        return node if rest == 0 else self.graph.call_function(add, (node, int(rest)))

    def _free(self, name: str) -> str:
        """A dotted name that is neither taken nor part of, or contains, one that is."""
        parts = [re.sub(r"\W", "_", part) for part in name.split(".") if part] or ["layer"]
        wanted = ".".join(part if index or not part[0].isdigit() else f"_{part}" for index, part in enumerate(parts))
        chosen, number = wanted, 1
        while chosen in self._names or any(n.startswith(f"{chosen}.") or chosen.startswith(f"{n}.") for n in self._names):
            number += 1
            chosen = f"{wanted.replace('.', '_')}_{number}"
        self._names.add(chosen)
        return chosen


def in_order_of(tensor: GraphTensor, order: Sequence[int]) -> GraphTensor:
    """A tensor whose node has the axes of an ONNX tensor in another order."""
    return GraphTensor(tensor.node, tensor.examples, tuple(order), tensor.learned)


def _tensors(arguments: Any) -> list[GraphTensor]:
    found: list[GraphTensor] = []
    map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, GraphTensor) else None)
    return found


def _example(arguments: Any, index: int) -> Any:
    def concrete(argument: Any) -> Any:
        if isinstance(argument, GraphTensor):
            return argument.examples[index]
        return at(argument, BATCHES[index]) if isinstance(argument, sympy.Basic) else argument

    return map_aggregate(arguments, concrete)


def _set(root: nn.Module, target: str, value: nn.Module | Tensor) -> None:
    """Register a layer, parameter or buffer under a dotted name; the modules on the way are made."""
    *path, name = target.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(value, nn.Module):
        owner.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    else:
        owner.register_buffer(name, value)
