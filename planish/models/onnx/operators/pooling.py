"""Pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.models.onnx.operators.convolution import padded, window
from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError

_MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_GLOBAL: dict[str, dict[int, Any]] = {
    "GlobalAveragePool": {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d},
    "GlobalMaxPool": {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d},
}
_NOT_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid)


class AveragePoolOfPixels(nn.Module):
    """Average pool with unequal padding that divides by the number of pixels in the window, without those that were padded.

    Args:
        pool: the pool, which divides by the size of its window.
        pads: padding of ``torch.nn.functional.pad``.
    """

    def __init__(self, pool: nn.Module, pads: Sequence[int]) -> None:
        super().__init__()
        self.pool, self.pads = pool, tuple(pads)

    def forward(self, images: Tensor) -> Tensor:
        pixels = functional.pad(torch.ones_like(images[:1, :1]), self.pads)
        averages: Tensor = self.pool(functional.pad(images, self.pads)) / self.pool(pixels)
        return averages


@operator("MaxPool")
def max_pool(call: NodeCall) -> GraphTensor | list[GraphTensor | None]:
    """Maximum in sliding windows."""
    images, kernel, rank = _images(call)
    strides, dilations, pads = window(call, kernel, images.shape[2:])
    padding = pads[0]
    if pads[0] != pads[1] or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        # Zeros, which are simpler for INT8, where no value is below zero.
        lowest = 0.0 if isinstance(call.builder.layer_of(images), _NOT_NEGATIVE) else -math.inf
        images, padding = padded(call, images, pads, lowest), [0] * rank
    ceil = bool(call.attribute("ceil_mode", 0))
    made = call.builder.apply(_MAX[rank](kernel, strides, padding, dilations, ceil_mode=ceil), call.name, images)
    return [made] + [None] * (call.outputs - 1)


@operator("AveragePool")
def average_pool(call: NodeCall) -> GraphTensor:
    """Average in sliding windows."""
    images, kernel, rank = _images(call)
    strides, dilations, pads = window(call, kernel, images.shape[2:])
    if max(dilations) > 1:
        raise UnsupportedError("AveragePool with dilations")
    count, ceil = bool(call.attribute("count_include_pad", 0)), bool(call.attribute("ceil_mode", 0))
    if pads[0] == pads[1] and all(2 * pad <= size for pad, size in zip(pads[0], kernel, strict=True)):
        layer = _AVERAGE[rank](kernel, strides, pads[0], ceil, count)
    elif count:
        images, layer = padded(call, images, pads), _AVERAGE[rank](kernel, strides, 0, ceil)
    else:
        flat = [side for pair in zip(reversed(pads[0]), reversed(pads[1]), strict=True) for side in pair]
        layer = AveragePoolOfPixels(_AVERAGE[rank](kernel, strides, 0, ceil), flat)
    made: GraphTensor = call.builder.apply(layer, call.name, images)
    return made


@operator(*_GLOBAL)
def global_pool(call: NodeCall) -> GraphTensor:
    """One value per channel."""
    images = call.plain()
    kinds = _GLOBAL[call.op_type]
    if images.ndim - 2 not in kinds:
        raise UnsupportedError(f"{call.op_type} of a tensor with {images.ndim} axes")
    made: GraphTensor = call.builder.apply(kinds[images.ndim - 2](1), call.name, images)
    return made


def _images(call: NodeCall) -> tuple[GraphTensor, list[int], int]:
    images, kernel = call.plain(), list(call.attribute("kernel_shape"))
    if len(kernel) not in _MAX or images.ndim != len(kernel) + 2:
        raise UnsupportedError(f"{call.op_type} with {len(kernel)} spatial axes")
    return images, kernel, len(kernel)
