"""Reductions along axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import sub
from typing import Any

import sympy
import torch
from torch import nn

from planish.models.onnx.builder import in_order_of
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": torch.linalg.vector_norm,
    "ReduceLogSumExp": torch.logsumexp,
}
_ARGUMENTS: dict[str, Callable[..., Any]] = {"ArgMax": torch.argmax, "ArgMin": torch.argmin}


@operator(*_REDUCTIONS, "ReduceSumSquare")
def reduction(call: NodeCall) -> GraphTensor:
    """One value along each of the axes, all axes by default."""
    x, keep = call.tensor(), bool(call.attribute("keepdims", 1))
    axes = call.axes(1, x.ndim)
    if not axes:
        if axes is not None and call.attribute("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.ndim))
    if 0 in axes:
        raise UnsupportedError(f"{call.op_type} over the images of a batch")
    own = sorted(x.axis(axis) for axis in axes)
    if call.op_type == "ReduceMean" and x.ndim == 4 and own == [2, 3]:
        pooled: GraphTensor = call.builder.apply(nn.AdaptiveAvgPool2d(1), call.name, x)
        return in_order_of(pooled, x.order) if keep else reduced(call.builder.call(torch.flatten, pooled, 1), x.order, own)
    tensor = call.builder.call(torch.square, x) if call.op_type == "ReduceSumSquare" else x
    function = _REDUCTIONS.get(call.op_type, torch.sum)
    made = call.builder.call(function, tensor, dim=own, keepdim=keep)
    return in_order_of(made, x.order) if keep else reduced(made, x.order, own)


@operator(*_ARGUMENTS)
def argument(call: NodeCall) -> GraphTensor:
    """The index of the largest or smallest value along an axis; the first one, if there are several."""
    if call.attribute("select_last_index", 0):
        raise UnsupportedError(f"{call.op_type} of the last of equal values")
    x, keep = call.tensor(), bool(call.attribute("keepdims", 1))
    axis = x.axis(call.attribute("axis", 0))
    made = call.builder.call(_ARGUMENTS[call.op_type], x, dim=axis, keepdim=keep)
    return in_order_of(made, x.order) if keep else reduced(made, x.order, [axis])


@operator("CumSum")
def cumulative_sum(call: NodeCall) -> GraphTensor:
    """Sums of all values up to each place of an axis."""
    x = call.tensor()
    if isinstance(x.shape[int(call.constant(1).item())], sympy.Basic):
        raise UnsupportedError("CumSum over the images of a batch")
    axis, backwards = x.axis(int(call.constant(1).item())), bool(call.attribute("reverse", 0))
    values = call.builder.call(torch.flip, x, [axis]) if backwards else x
    made = call.builder.call(torch.cumsum, values, axis)
    if call.attribute("exclusive", 0):
        made = call.builder.call(sub, made, values)
    return in_order_of(call.builder.call(torch.flip, made, [axis]) if backwards else made, x.order)


def reduced(tensor: GraphTensor, order: Sequence[int], gone: Sequence[int]) -> GraphTensor:
    """A tensor without the axes ``gone`` of a node whose axes had this order."""
    left = [axis for axis in order if axis not in gone]
    ranked = sorted(left)
    return in_order_of(tensor, [ranked.index(axis) for axis in left])
