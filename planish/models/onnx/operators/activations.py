"""Activation functions."""

from __future__ import annotations

from collections.abc import Callable
from operator import mul
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.models.onnx.builder import in_order_of
from planish.models.onnx.operators.arithmetic import aligned
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError

_LAYERS: dict[str, Callable[[NodeCall], nn.Module]] = {
    "Relu": lambda _: nn.ReLU(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Tanh": lambda _: nn.Tanh(),
    "Softplus": lambda _: nn.Softplus(),
    "Softsign": lambda _: nn.Softsign(),
    "HardSwish": lambda _: nn.Hardswish(),
    "Mish": lambda _: nn.Mish(),
    "LeakyRelu": lambda call: nn.LeakyReLU(call.attribute("alpha", 0.01)),
    "Elu": lambda call: nn.ELU(call.attribute("alpha", 1.0)),
    "Celu": lambda call: nn.CELU(call.attribute("alpha", 1.0)),
    "Gelu": lambda call: nn.GELU(call.attribute("approximate", "none")),
    "FastGelu": lambda _: nn.GELU("tanh"),
    "ThresholdedRelu": lambda call: nn.Threshold(call.attribute("alpha", 1.0), 0.0),
}
_SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
_SIXTH = 1e-4  # tolerance of the slope of a hard sigmoid, which some exporters round to 0.1667


@operator(*_LAYERS)
def activation(call: NodeCall) -> GraphTensor:
    """Activations that are layers of torch."""
    return applied(call, _LAYERS[call.op_type](call), call.tensor())


def applied(call: NodeCall, layer: nn.Module, tensor: GraphTensor) -> GraphTensor:
    """An elementwise layer applied to a tensor, whatever the order of its axes."""
    return in_order_of(call.builder.apply(layer, call.name, tensor), tensor.order)


@operator("Selu")
def selu(call: NodeCall) -> GraphTensor:
    """SELU with its usual constants."""
    if any(abs(call.attribute(name, usual) - usual) > 1e-4 for name, usual in _SELU.items()):
        raise UnsupportedError("Selu with other constants")
    return applied(call, nn.SELU(), call.tensor())


@operator("HardSigmoid")
def hard_sigmoid(call: NodeCall) -> GraphTensor:
    """``clip(alpha * x + beta, 0, 1)``."""
    return _hard_sigmoid(call, call.tensor(), call.attribute("alpha", 0.2), call.attribute("beta", 0.5))


@operator("QuickGelu", "Swish")
def swish(call: NodeCall) -> GraphTensor:
    """``x * sigmoid(alpha * x)``."""
    alpha, x = call.attribute("alpha", 1.702 if call.op_type == "QuickGelu" else 1.0), call.tensor()
    if alpha == 1:
        return applied(call, nn.SiLU(), x)
    scaled = in_order_of(call.builder.call(mul, x, float(alpha)), x.order)
    return in_order_of(call.builder.call(mul, x, applied(call, nn.Sigmoid(), scaled)), x.order)


@operator("Clip")
def clip(call: NodeCall) -> GraphTensor:
    """Limits, which are attributes in older files."""
    low, high = call.option("min", 1), call.option("max", 2)
    return _clip(call, call.tensor(), _limit(low, -np.inf), _limit(high, np.inf))


@operator("PRelu")
def prelu(call: NodeCall) -> GraphTensor:
    """A slope per channel is a layer; slopes of other shapes are products."""
    slope, x = call.constant(1), call.tensor()
    (images, slopes), order = aligned(call, (x, slope))
    slopes = np.asarray(slopes, np.float32)
    axes = [axis for axis, size in enumerate(slopes.shape) if size > 1]
    if axes in ([], [1]) and (not axes or slopes.shape[1] == images.sizes[1]):
        layer = nn.PReLU(max(1, slopes.size))
        layer.weight = nn.Parameter(torch.from_numpy(slopes.reshape(-1)))
        return in_order_of(call.builder.apply(layer, call.name, images, key=(call.names[1], "PRelu", str(order))), order)
    positive, negative = (call.builder.call(torch.clamp, images, **{limit: 0.0}) for limit in ("min", "max"))
    weights = call.builder.constant(slopes, learned=True, name=f"{call.name}_slopes")
    return in_order_of(call.builder.call(torch.add, positive, call.builder.call(mul, negative, weights)), order)


@operator("Softmax", "LogSoftmax")
def softmax(call: NodeCall) -> GraphTensor:
    """Before version 13, over all axes from ``axis`` on."""
    x, kind = call.tensor(), nn.Softmax if call.op_type == "Softmax" else nn.LogSoftmax
    axis = call.attribute("axis", -1 if call.opset >= 13 else 1) % x.ndim
    if call.opset >= 13 or all(size == 1 for size in x.shape[axis + 1 :]):
        return applied(call, kind(x.axis(axis)), x)
    plain = call.builder.in_order(x)
    flat = call.builder.apply(kind(axis), call.name, call.builder.call(torch.flatten, plain, axis))
    return call.builder.call(torch.unflatten, flat, axis, plain.shape[axis:])


def _limit(given: Any, default: float) -> float:
    return default if given is None else float(np.asarray(given).reshape(()))


def _clip(call: NodeCall, x: GraphTensor, low: float, high: float) -> GraphTensor:
    if low == -np.inf and high == np.inf:
        return x
    if x.examples[0].is_floating_point() and low == 0 and high in (6, np.inf):
        return applied(call, nn.ReLU6() if high == 6 else nn.ReLU(), x)
    if x.examples[0].is_floating_point() and np.isfinite([low, high]).all():
        return applied(call, nn.Hardtanh(low, high), x)
    limits = {name: value for name, value in (("min", low), ("max", high)) if np.isfinite(value)}
    return in_order_of(call.builder.call(torch.clamp, x, **limits), x.order)


def _hard_sigmoid(call: NodeCall, x: GraphTensor, alpha: float, beta: float) -> GraphTensor:
    if abs(alpha - 1 / 6) < _SIXTH and beta == 0.5:
        return applied(call, nn.Hardsigmoid(), x)
    line = call.builder.call(torch.add, call.builder.call(mul, x, float(alpha)), float(beta))
    return in_order_of(call.builder.call(torch.clamp, line, 0.0, 1.0), x.order)
