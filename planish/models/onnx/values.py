"""The values that flow through a conversion: constants, and tensors that depend on the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy
from torch import Tensor, fx

BATCHES = (5, 7)  # batch sizes of the examples; sizes that differ between them depend on the batch size
N = sympy.Symbol("N", integer=True, positive=True)

Array = npt.NDArray[Any]  # of numbers; of objects if it holds sizes that depend on the batch size
Size = Any  # int, or a sympy expression in ``N``


class UnsupportedError(Exception):
    """An ONNX node that cannot be converted; the message names what is not supported about it."""


@dataclass(frozen=True)
class GraphTensor:
    """A tensor that depends on the images.

    Args:
        node: node of the torch.fx graph that computes it, possibly with its axes in another order.
        examples: fake tensors of ``node``'s shape, one for each of ``BATCHES``.
        order: axis i of the ONNX tensor is axis ``order[i]`` of ``node``. Transposes change it, and are inserted only where a layer needs
            its axes in order: those around the layers of an NHWC file vanish.
        learned: whether a layer with weights has been applied to the images.
    """

    node: fx.Node
    examples: tuple[Tensor, ...]
    order: tuple[int, ...]
    learned: bool

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The shape of ``node``; sizes that depend on the batch size are expressions in ``N``."""
        return tuple(_size(pair) for pair in zip(*(example.shape for example in self.examples), strict=True))

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of the ONNX tensor."""
        return tuple(self.sizes[axis] for axis in self.order)

    @property
    def ndim(self) -> int:
        return len(self.order)

    @property
    def in_order(self) -> bool:
        """Whether the axes of ``node`` are those of the ONNX tensor."""
        return self.order == tuple(range(self.ndim))

    def transposed(self, axes: Sequence[int]) -> GraphTensor:
        """The tensor with its axes permuted; nothing is inserted into the graph."""
        return replace(self, order=tuple(self.order[axis] for axis in axes))

    def axis(self, axis: int) -> int:
        """The axis of ``node`` for an axis of the ONNX tensor, which may be negative."""
        return self.order[axis % self.ndim]


@dataclass(frozen=True)
class BatchArray:
    """A constant whose shape or values depend on the batch size in a way that sizes cannot express: indices of each image, for example.

    Args:
        examples: its values at each of ``BATCHES``.
    """

    examples: tuple[Array, ...]

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape; sizes that depend on the batch size are expressions in ``N``."""
        return tuple(_size((a, b)) for a, b in zip(*(example.shape for example in self.examples), strict=True))


Value = GraphTensor | BatchArray | Array | None  # None: an optional input that is not given


def as_sizes(sizes: Sequence[Size]) -> Array:
    """An ONNX shape: int64, or objects if a size depends on the batch size."""
    if all(isinstance(size, int) for size in sizes):
        return np.array(sizes, np.int64)
    found = np.empty(len(sizes), object)
    found[:] = list(sizes)
    return found


def at(size: Size, batch: int) -> int:
    """The value of a size at a batch size."""
    return int(size.subs(N, batch)) if isinstance(size, sympy.Basic) else int(size)


def values_at(value: Array | BatchArray, place: int) -> Array:
    """The values of a constant at one of ``BATCHES``."""
    if isinstance(value, BatchArray):
        return value.examples[place]
    return np.vectorize(lambda size: at(size, BATCHES[place]), otypes=[np.int64])(value) if value.dtype == object else value


def without_symbols(values: Array) -> Array:
    """An array of objects as int64 if no value depends on the batch size; other arrays are returned unchanged."""
    if values.dtype != object or any(isinstance(value, sympy.Basic) and value.free_symbols for value in values.flat):
        return values
    return np.array([int(value) for value in values.flat], np.int64).reshape(values.shape)


def has_symbols(value: Value) -> bool:
    """Whether a value is a constant that depends on the batch size."""
    return isinstance(value, np.ndarray) and value.dtype == object


def _size(pair: tuple[int, int]) -> Size:
    """The linear function of the batch size with these values at ``BATCHES``; an int if it is constant."""
    if pair[0] == pair[1]:
        return pair[0]
    slope = sympy.Rational(pair[1] - pair[0], BATCHES[1] - BATCHES[0])
    return slope * N + (pair[0] - slope * BATCHES[0])
