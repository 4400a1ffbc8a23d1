"""Changes of shape. A reshape becomes flattening and unflattening of the axes that it changes, so that the batch size stays free and
channels can be removed later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import sympy
import torch

from planish.models.onnx.operators.reductions import reduced
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import BATCHES, Array, GraphTensor, N, Size, UnsupportedError, Value, as_sizes, at

Group = tuple[tuple[int, int], tuple[int, int]]  # axes from, to of the input; axes from, to of the output


@operator("Shape")
def shape(call: NodeCall) -> Array:
    """The shape as a constant, in which the batch size is a symbol."""
    sizes = call.tensor().shape
    return as_sizes(sizes[call.attribute("start", 0) : call.attribute("end", len(sizes))])


@operator("Size")
def size(call: NodeCall) -> Array:
    """The number of elements."""
    return as_sizes([_product(call.tensor().shape)])[0:1].reshape(())


@operator("Transpose")
def transpose(call: NodeCall) -> GraphTensor:
    """Inserted only where a layer needs the axes in order."""
    x = call.tensor()
    return x.transposed(call.attribute("perm", list(reversed(range(x.ndim)))))


@operator("Flatten")
def flatten(call: NodeCall) -> GraphTensor:
    """Two axes: those before ``axis``, and the others."""
    x = call.plain()
    axis = call.attribute("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return reshaped(call, x, [_product(x.shape[:axis]), _product(x.shape[axis:])])


@operator("Reshape")
def reshape(call: NodeCall) -> GraphTensor:
    """Any reshape of a tensor to constant sizes, or to sizes computed from the batch size."""
    x, wanted = call.tensor(), call.attribute("shape", None)
    sizes = list(call.constant(1)) if wanted is None else list(wanted)
    return reshaped(call, x, _resolved(call, x.shape, sizes, bool(call.attribute("allowzero", 0))))


@operator("Squeeze")
def squeeze(call: NodeCall) -> GraphTensor:
    """Removes axes of size 1."""
    x = call.tensor()
    axes = call.axes(1, x.ndim)
    if axes is None:
        axes = [axis for axis, length in enumerate(x.shape) if length == 1]
    own = sorted(x.axis(axis) for axis in axes)
    if any(x.sizes[axis] != 1 for axis in own):
        raise UnsupportedError("Squeeze of the batch, or of an axis that is not 1")
    made = x
    for axis in reversed(own):
        made = call.builder.call(torch.squeeze, made, axis)
    return reduced(made, x.order, own)


@operator("Unsqueeze")
def unsqueeze(call: NodeCall) -> GraphTensor:
    """Adds axes of size 1."""
    made = call.tensor()
    axes = call.axes(1, made.ndim + len(np.atleast_1d(call.option("axes", 1))))
    for axis in sorted(axes or []):
        if made.in_order:
            made = call.builder.call(torch.unsqueeze, made, axis)
        else:
            more = call.builder.call(torch.unsqueeze, made, made.ndim)
            made = replace(more, order=(*made.order[:axis], made.ndim, *made.order[axis:]))
    return made


@operator("Expand")
def expand(call: NodeCall) -> GraphTensor:
    """Repeats axes of size 1."""
    x, wanted = call.tensor(), list(call.constant(1))
    rank = max(x.ndim, len(wanted))
    old, new = (1,) * (rank - x.ndim) + x.shape, [1] * (rank - len(wanted)) + wanted
    sizes = [b if a == 1 else a for a, b in zip(old, new, strict=True)]
    if list(x.shape) == sizes:
        return x
    return call.builder.call(torch.broadcast_to, call.builder.in_order(x), _numbers(sizes))


@operator("Tile")
def tile(call: NodeCall) -> GraphTensor:
    """Repeats the tensor along its axes."""
    return call.builder.call(torch.tile, call.plain(), _numbers(list(call.constant(1))))


@operator("ConstantOfShape")
def constant_of_shape(call: NodeCall) -> GraphTensor:
    """A tensor of one value, whose shape depends on the batch size."""
    value = np.asarray(call.attribute("value", np.zeros(1, np.float32))).reshape(())
    return call.builder.call(torch.broadcast_to, np.atleast_1d(value), _numbers(list(call.constant(0))))


def reshaped(call: NodeCall, x: GraphTensor, sizes: Sequence[Size]) -> GraphTensor:
    """A tensor with another shape of as many elements."""
    if not x.in_order and (lean := _without_ones(call, x)).in_order:
        x = lean
    x = call.builder.in_order(x)
    groups = _groups([_ends(s) for s in x.shape], [_ends(s) for s in sizes])
    if groups is None:
        return call.builder.call(torch.reshape, x, _numbers(sizes))
    for (first, last), (start, end) in reversed(groups):
        if x.shape[first:last] == tuple(sizes[start:end]):
            continue
        if last == first:
            for _ in range(end - start):
                x = call.builder.call(torch.unsqueeze, x, first)
            continue
        if last - first > 1:
            x = call.builder.call(torch.flatten, x, first, last - 1)
        if end == start:
            x = call.builder.call(torch.squeeze, x, first)
        elif end - start > 1:
            x = call.builder.call(torch.unflatten, x, first, _with_free(sizes[start:end]))
    return x


def _without_ones(call: NodeCall, x: GraphTensor) -> GraphTensor:
    ones = sorted(axis for axis, length in enumerate(x.sizes) if length == 1)
    made = x
    for axis in reversed(ones):
        made = call.builder.call(torch.squeeze, made, axis)
    return reduced(made, x.order, ones)


def _resolved(call: NodeCall, old: Sequence[Size], sizes: list[Any], allow_zero: bool) -> list[Size]:
    """The new sizes with those that are 0 or -1 filled in, and with the static batch size of the file made free."""
    if not allow_zero:
        sizes = [old[axis] if length == 0 and axis < len(old) else length for axis, length in enumerate(sizes)]
    sizes = [length if isinstance(length, sympy.Basic) else int(length) for length in sizes]
    total = _product(old)
    free = isinstance(total, sympy.Basic)
    if call.batch is not None and free and not any(isinstance(length, sympy.Basic) for length in sizes):
        return _with_free_batch(old, sizes, call.batch)
    if -1 in sizes:
        place = sizes.index(-1)
        rest = _product(sizes[:place] + sizes[place + 1 :])
        sizes[place] = sympy.cancel(total / rest) if free or isinstance(rest, sympy.Basic) else total // rest
        sizes[place] = int(sizes[place]) if getattr(sizes[place], "is_Integer", False) else sizes[place]
    if any(_product([at(length, b) for length in sizes]) != at(total, b) for b in BATCHES):
        raise UnsupportedError(f"Reshape of {_text(old)} to {_text(sizes)}")
    return sizes


def _with_free_batch(old: Sequence[Size], sizes: list[int], batch: int) -> list[Size]:
    """The new sizes, written for the static batch size of the file, with that of the axis that holds the batch made free."""
    before = [at(length, batch) for length in old]
    sizes = [prod(before) // -prod(sizes) if length == -1 else length for length in sizes]
    groups = _groups([(length,) for length in before], [(length,) for length in sizes])
    images = next(axis for axis, length in enumerate(old) if isinstance(length, sympy.Basic))
    place = next((start for (first, last), (start, _) in groups or [] if first <= images < last), None)
    if place is None or place >= len(sizes) or sizes[place] % batch:
        raise UnsupportedError(f"Reshape of {_text(old)} to {_text(sizes)}")
    return [length // batch * N if axis == place else length for axis, length in enumerate(sizes)]


def _groups(old: list[tuple[int, ...]], new: list[tuple[int, ...]]) -> list[Group] | None:
    """The smallest groups of neighbouring axes that hold as many elements before and after; None if sizes depend on the batch in a way that
    leaves this open.

    Args:
        old: sizes, each at one or more batch sizes.
        new: likewise.
    """
    groups: list[Group] = []
    i = j = 0
    while i < len(old) and j < len(new):
        first, start = i, j
        a, b = old[i], new[j]
        i, j = i + 1, j + 1
        while a != b:
            if all(x < y for x, y in zip(a, b, strict=True)) and i < len(old):
                a, i = tuple(x * y for x, y in zip(a, old[i], strict=True)), i + 1
            elif all(x > y for x, y in zip(a, b, strict=True)) and j < len(new):
                b, j = tuple(x * y for x, y in zip(b, new[j], strict=True)), j + 1
            else:
                return None
        groups.append(((first, i), (start, j)))
    if not groups:
        return None
    if any(set(length) != {1} for length in (*old[i:], *new[j:])):
        return None
    (first, _), (start, _) = groups[-1]
    groups[-1] = ((first, len(old)), (start, len(new)))  # axes of size 1 at the end
    return groups


def _with_free(sizes: Sequence[Size]) -> list[int]:
    """The sizes of one axis that is unflattened, with -1 for that which depends on the batch size, else for the last one above 1."""
    symbols = [place for place, length in enumerate(sizes) if isinstance(length, sympy.Basic)]
    wide = [place for place, length in enumerate(sizes) if length != 1]
    free = symbols[0] if symbols else wide[-1] if wide else len(sizes) - 1
    return _numbers([-1 if place == free else length for place, length in enumerate(sizes)])


def _numbers(sizes: Sequence[Any]) -> list[Any]:
    return [length if isinstance(length, sympy.Basic) else int(length) for length in sizes]


def _product(sizes: Sequence[Size]) -> Size:
    return prod(sizes)


def _ends(length: Size) -> tuple[int, ...]:
    return tuple(at(length, batch) for batch in BATCHES)


def _text(sizes: Sequence[Size]) -> str:
    return "(" + ", ".join(map(str, sizes)) + ")"


def expanded_to_batch(call: NodeCall, value: Value, other: GraphTensor) -> Value:
    """A constant that is written once for a batch of one image, repeated for each image of ``other``."""
    if isinstance(value, np.ndarray) and value.ndim == other.ndim and len(value) == (call.batch or 1) and value.ndim > 1:
        tensor = call.builder.constant(value[:1], learned=other.learned, name=f"{call.name}_constant")
        return call.builder.call(torch.broadcast_to, tensor, [other.shape[0], *value.shape[1:]])
    return value
