"""Elementwise arithmetic, with the order of axes that the operands have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add, mul, sub, truediv
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.models.onnx.builder import in_order_of
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError, Value

_BINARY: dict[str, Callable[..., Any]] = {
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Div": truediv,
    "Pow": torch.pow,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "Equal": torch.eq,
    "And": torch.logical_and,
    "Or": torch.logical_or,
}
_UNARY: dict[str, Callable[..., Any]] = {
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Not": torch.logical_not,
}
_VARIADIC: dict[str, Callable[..., Any]] = {"Sum": add, "Mean": add, "Max": torch.maximum, "Min": torch.minimum}


def aligned(call: NodeCall, values: Sequence[Value]) -> tuple[list[Any], tuple[int, ...]]:
    """The operands with the same rank and the same order of axes, that of the largest tensor, and that order.

    Constants stay arrays; a constant with a single number becomes that number.
    """
    tensors = [value for value in values if isinstance(value, GraphTensor)]
    rank = max([tensor.ndim for tensor in tensors] + [np.ndim(value) for value in values if isinstance(value, np.ndarray)])
    order = max(tensors, key=lambda tensor: (tensor.ndim, tensor.examples[0].numel())).order
    if len(order) < rank or any(tensor.ndim < rank for tensor in tensors):
        order = tuple(range(rank))
    inverse = np.argsort(order)
    found: list[Any] = []
    for value in values:
        if isinstance(value, GraphTensor):
            found.append(call.builder.ordered_as(value, order) if value.ndim == rank else call.builder.in_order(value))
        elif isinstance(value, np.ndarray) and value.dtype == object:
            raise UnsupportedError(f"{call.op_type} with a size that depends on the batch size")
        elif isinstance(value, np.ndarray) and value.size == 1 and np.ndim(value) <= max(t.ndim for t in tensors):
            found.append(value.item() if value.dtype != np.bool_ else bool(value.item()))
        elif isinstance(value, np.ndarray):
            found.append(value.reshape((1,) * (rank - value.ndim) + value.shape).transpose(inverse))
        else:
            raise UnsupportedError(f"{call.op_type} without an operand")
    return found, order


@operator(*_BINARY)
def binary(call: NodeCall) -> GraphTensor:
    """Two operands with broadcasting; a bias or a scale per channel after a convolution or linear layer becomes that of the layer."""
    if call.attribute("broadcast", 0):
        raise UnsupportedError(f"{call.op_type} with the broadcasting of opset 6")
    if call.op_type in ("Add", "Sub", "Mul", "Div") and (folded := _folded(call)) is not None:
        return folded
    operands, order = aligned(call, (call.given(0), call.given(1)))
    operands = _in_graph(call, operands)
    integers = all(t.examples[0].is_floating_point() is False for t in operands if isinstance(t, GraphTensor))
    if call.op_type == "Div" and integers:
        made = call.builder.call(torch.div, *operands, rounding_mode="trunc")
    elif call.op_type == "Pow" and operands[1] == 2:
        made = call.builder.call(torch.square, operands[0])
    else:
        made = call.builder.call(_BINARY[call.op_type], *operands)
    return in_order_of(made, order)


@operator(*_UNARY)
def unary(call: NodeCall) -> GraphTensor:
    """One operand."""
    x = call.tensor()
    return in_order_of(call.builder.call(_UNARY[call.op_type], x), x.order)


@operator(*_VARIADIC)
def variadic(call: NodeCall) -> GraphTensor:
    """Any number of operands."""
    operands, order = aligned(call, call.inputs)
    count = len(operands)
    if count == 2 and call.op_type in ("Max", "Min") and not isinstance(operands[1], (GraphTensor, np.ndarray)):
        limit = "min" if call.op_type == "Max" else "max"
        return in_order_of(call.builder.call(torch.clamp, operands[0], **{limit: operands[1]}), order)
    tensors = [np.float32(o) if isinstance(o, float) else o for o in operands]
    tensors = _in_graph(call, [np.asarray(o) if not isinstance(o, GraphTensor) else o for o in tensors])
    made = reduce(lambda a, b: call.builder.call(_VARIADIC[call.op_type], a, b), tensors)
    return in_order_of(call.builder.call(truediv, made, count) if call.op_type == "Mean" else made, order)


@operator("Where")
def where(call: NodeCall) -> GraphTensor:
    """One of two operands at each place."""
    operands, order = aligned(call, call.inputs)
    arrays = [np.asarray(o, np.float32 if isinstance(o, float) else None) if not isinstance(o, GraphTensor) else o for o in operands]
    return in_order_of(call.builder.call(torch.where, *arrays), order)


@operator("Cast", "CastLike", "Identity", "Dropout")
def same(call: NodeCall) -> Value | list[Value]:
    """What leaves the values as they are, in float32; casts to integers and booleans round."""
    value = call.given(0)
    if call.op_type != "Cast" or not isinstance(value, GraphTensor):
        return value if call.op_type != "Dropout" else [value] + [None] * (call.outputs - 1)
    dtype = _DTYPES.get(call.attribute("to"))
    if dtype is None:
        raise UnsupportedError(f"Cast to type {call.attribute('to')}")
    if dtype == value.examples[0].dtype:
        return value
    return in_order_of(call.builder.call(torch.Tensor.to, value, dtype), value.order)


# Numbers of ``onnx.TensorProto.DataType``; half and double precision are computed in float32.
_DTYPES = {1: torch.float32, 10: torch.float32, 11: torch.float32, 16: torch.float32} | {
    2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool,
}  # fmt: skip


def _in_graph(call: NodeCall, operands: Sequence[Any]) -> list[Any]:
    """The operands with constant arrays in the graph: parameters if they scale or shift channels after a learned layer, else buffers."""
    learned = any(operand.learned for operand in operands if isinstance(operand, GraphTensor))
    return [
        call.builder.constant(operand, learned=learned and sum(size > 1 for size in operand.shape) == 1, name=f"{call.name}_constant")
        if isinstance(operand, np.ndarray)
        else operand
        for operand in operands
    ]


def _folded(call: NodeCall) -> GraphTensor | None:
    """The tensor whose convolution or linear layer now also adds, or scales its channels by, the constant; None if there is no such layer.

    Exporters write biases and batch norm so.
    """
    place = next((i for i, j in ((0, 1), (1, 0)) if isinstance(call.given(i), GraphTensor) and isinstance(call.given(j), np.ndarray)), None)
    if place is None or call.consumers[place] != 1 or (place == 1 and call.op_type in ("Sub", "Div")):
        return None
    tensor, constant = call.tensor(place), call.constant(1 - place)
    layer = call.builder.layer_of(tensor)
    scales = call.op_type in ("Mul", "Div")
    if not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) or constant.ndim > tensor.ndim or constant.dtype.kind != "f":
        return None
    if scales and isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups > 1:
        return None
    channel = 1 if isinstance(layer, nn.modules.conv._ConvNd) else tensor.ndim - 1
    row = constant.reshape((1,) * (tensor.ndim - constant.ndim) + constant.shape).transpose(np.argsort(tensor.order))
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    sizes = (width,) if scales else (1, width)
    if any(size > 1 for axis, size in enumerate(row.shape) if axis != channel) or math.prod(row.shape) not in sizes:
        return None
    numbers = torch.from_numpy(np.broadcast_to(row.reshape(-1).astype(np.float32), width).copy())
    call.builder.keep_apart(tensor)
    with torch.no_grad():
        if not scales:
            shift = -numbers if call.op_type == "Sub" else numbers
            layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias + shift)
            return tensor
        factors = 1 / numbers if call.op_type == "Div" else numbers
        of_outputs = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        layer.weight.mul_(factors.reshape([-1 if axis == of_outputs else 1 for axis in range(layer.weight.ndim)]))
        if layer.bias is not None:
            layer.bias.mul_(factors)
    return tensor
