"""Parts of tensors, and tensors of parts."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.models.onnx.builder import in_order_of
from planish.models.onnx.operators.arithmetic import aligned
from planish.models.onnx.operators.reductions import reduced
from planish.models.onnx.operators.shapes import expanded_to_batch, reshaped
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import BATCHES, BatchArray, GraphTensor, N, UnsupportedError, Value, at

_ALL = 2**31 - 1  # from here on, an end means the end of the axis
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


class SplitBySizes(nn.Module):
    """Parts of given sizes along an axis.

    Args:
        sizes: size of each part; changed where channels are removed.
        axis: the axis.
    """

    def __init__(self, sizes: Sequence[int], axis: int) -> None:
        super().__init__()
        self.sizes, self.axis = list(sizes), axis

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = torch.split(tensor, self.sizes, self.axis)
        return parts


@operator("Slice")
def slices(call: NodeCall) -> GraphTensor:
    """A range along some axes. One of several equal parts of the channels is taken as such, so that channels can be removed."""
    x = call.tensor()
    starts, ends = call.option("starts", 1), call.option("ends", 2)
    axes, steps = call.option("axes", 3, list(range(len(starts)))), call.option("steps", 4, [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _sliced(call, x, x.axis(int(axis)), (start, end, int(step)))
    return x


@operator("Split")
def split(call: NodeCall) -> list[GraphTensor]:
    """Parts along an axis."""
    x = call.tensor()
    axis = x.axis(call.attribute("axis", 0))
    whole, sizes = x.sizes[axis], call.option("split", 1)
    if sizes is None:
        part = -(-whole // call.outputs)
        sizes = [min(part, whole - part * place) for place in range(call.outputs)]
    if len(set(sizes)) == 1:
        parts = call.builder.items(torch.chunk, len(sizes), x, len(sizes), axis)
    else:
        parts = call.builder.apply(SplitBySizes(sizes, axis), call.name, x, items=len(sizes))
    return [in_order_of(part, x.order) for part in parts]


@operator("Concat")
def concat(call: NodeCall) -> GraphTensor:
    """Tensors side by side; a constant that is written once is repeated for each image."""
    first = next(value for value in call.inputs if isinstance(value, GraphTensor))
    axis = call.attribute("axis") % first.ndim
    values: list[Value] = [expanded_to_batch(call, value, first) if axis else value for value in call.inputs]
    values = [value if isinstance(value, GraphTensor) else call.tensor(place) for place, value in enumerate(values)]
    tensors, order = aligned(call, values)
    return in_order_of(call.builder.call(torch.cat, tensors, order[axis]), order)


@operator("Gather")
def gather(call: NodeCall) -> GraphTensor:
    """Elements at constant indices along an axis."""
    x, given = call.tensor(), call.given(1)
    if (whole := _all_in_order(call, x, given)) is not None:
        return reshaped(call, x, whole)
    indices = call.constant(1).astype(np.int64)
    onnx_axis = call.attribute("axis", 0) % x.ndim
    axis, length = x.axis(onnx_axis), x.shape[onnx_axis]
    if isinstance(length, sympy.Basic):
        raise UnsupportedError("Gather of certain images of a batch")
    indices = np.where(indices < 0, indices + length, indices)
    if indices.ndim == 0:
        return reduced(call.builder.call(torch.select, x, axis, int(indices)), x.order, [axis])
    if indices.ndim == 1:
        return in_order_of(call.builder.call(torch.index_select, x, axis, indices), x.order)
    plain = call.builder.in_order(x)
    taken = call.builder.call(torch.index_select, plain, onnx_axis, indices.reshape(-1))
    return call.builder.call(torch.unflatten, taken, onnx_axis, list(indices.shape))


@operator("GatherND")
def gather_nd(call: NodeCall) -> GraphTensor:
    """Elements at constant places of several axes, the same ones of each image."""
    x, places, first = call.tensor(), call.constant(1).astype(np.int64), int(call.attribute("batch_dims", 0))
    if first == 1 and len(places) == call.batch and (places == places[:1]).all():
        places = places[0]
    elif first:
        raise UnsupportedError("GatherND of other places of each image")
    last = first + places.shape[-1]
    sides = x.shape[first:last]
    if any(isinstance(side, sympy.Basic) for side in sides):
        raise UnsupportedError("GatherND of certain images of a batch")
    flat = np.ravel_multi_index(tuple(np.moveaxis(np.where(places < 0, places + np.array(sides), places), -1, 0)), sides)
    plain = call.builder.in_order(x)
    if last - first > 1:
        plain = call.builder.call(torch.flatten, plain, first, last - 1)
    if flat.ndim == 0:
        return call.builder.call(torch.select, plain, first, int(flat))
    taken = call.builder.call(torch.index_select, plain, first, flat.reshape(-1))
    return taken if flat.ndim == 1 else call.builder.call(torch.unflatten, taken, first, list(flat.shape))


@operator("Pad")
def pad(call: NodeCall) -> GraphTensor:
    """Padding, or cropping where it is negative."""
    x, mode = call.tensor(), call.attribute("mode", "constant")
    flat, value = call.option("pads", 1), call.option("value", 2, 0.0)
    axes = call.option("axes", 3, list(range(x.ndim)))
    if mode not in _PAD_MODES or len(flat) != 2 * len(axes):
        raise UnsupportedError(f"Pad of mode {mode}")
    pads = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        pads[x.axis(int(axis))] = (int(flat[place]), int(flat[place + len(axes)]))
    wanted = [side for pair in reversed(pads) for side in pair]
    if not any(wanted):
        return x
    least = 0 if mode == "constant" else 2 * (x.ndim - 2)  # the other modes pad all spatial axes
    while len(wanted) > least and wanted[-2:] == [0, 0]:
        wanted = wanted[:-2]
    more = (float(np.asarray(value).reshape(())),) if mode == "constant" else ()
    return in_order_of(call.builder.call(functional.pad, x, wanted, _PAD_MODES[mode], *more), x.order)


def _all_in_order(call: NodeCall, x: GraphTensor, indices: Value) -> list[Any] | None:
    """The shape of indices that name all elements of a tensor with one axis in order, as exporters write a reshape; else None."""
    if x.ndim != 1 or not isinstance(indices, (np.ndarray, BatchArray)):
        return None
    (length,) = x.shape
    if isinstance(indices, BatchArray):
        examples = zip(indices.examples, BATCHES, strict=True)
        return list(indices.shape) if all(_is_range(part, at(length, batch)) for part, batch in examples) else None
    if call.batch is None or not indices.ndim or len(indices) != call.batch or not _is_range(indices, at(length, call.batch)):
        return None
    return [N, *indices.shape[1:]]


def _is_range(indices: Any, length: int) -> bool:
    return np.array_equal(np.asarray(indices).reshape(-1), np.arange(length))


def _sliced(call: NodeCall, x: GraphTensor, axis: int, limits: tuple[Any, Any, int]) -> GraphTensor:
    length, (start, end, step) = x.sizes[axis], limits
    if step < 0:
        if step != -1 or (start not in (-1, _ALL) and not (isinstance(start, int) and start >= length - 1)) or end > -_ALL:
            raise UnsupportedError(f"Slice with steps of {step}")
        return in_order_of(call.builder.call(torch.flip, x, [axis]), x.order)
    if end == length or (isinstance(end, int) and (end >= _ALL or (isinstance(length, int) and end > length))):
        end = None
    if start == 0 and end is None and step == 1:
        return x
    if isinstance(length, sympy.Basic) or isinstance(start, sympy.Basic) or isinstance(end, sympy.Basic):
        raise UnsupportedError("Slice of certain images of a batch")
    start, stop, _ = slice(start, end).indices(length)
    part = stop - start
    if step == 1 and axis == 1 and part > 0 and length % part == 0 and start % part == 0:
        made = call.builder.items(torch.chunk, length // part, x, length // part, axis)[start // part]
    else:
        index = (slice(None),) * axis + (slice(start, None if stop == length else stop, None if step == 1 else step),)
        made = call.builder.call(getitem, x, index)
    return in_order_of(made, x.order)
