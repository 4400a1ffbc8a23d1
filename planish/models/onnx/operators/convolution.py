"""Convolutions, and the padding of windows that they share with the pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import Array, GraphTensor, UnsupportedError

_CONVOLUTIONS: dict[int, tuple[Any, Any]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
Pads = tuple[list[int], list[int]]


def window(call: NodeCall, kernel: Sequence[int], sides: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """The strides and dilations of a sliding window, and the pads before and after each axis.

    Args:
        call: a convolution or pool.
        kernel: size of the window.
        sides: sizes of the axes that it slides along.
    """
    rank = len(kernel)
    strides, dilations = list(call.attribute("strides", [1] * rank)), list(call.attribute("dilations", [1] * rank))
    kind = call.attribute("auto_pad", "NOTSET")
    if kind == "NOTSET":
        pads = list(call.attribute("pads", [0] * 2 * rank))
        return strides, dilations, (pads[:rank], pads[rank:])
    if kind == "VALID":
        return strides, dilations, ([0] * rank, [0] * rank)
    totals = [
        max(0, (-(-side // stride) - 1) * stride + (size - 1) * dilation + 1 - side)
        for side, stride, size, dilation in zip(sides, strides, kernel, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return strides, dilations, (small, large) if kind == "SAME_UPPER" else (large, small)


def padded(call: NodeCall, images: GraphTensor, pads: Pads, value: float = 0.0) -> GraphTensor:
    """The images with each of the last axes padded before and after; negative pads crop."""
    flat = [side for pair in zip(reversed(pads[0]), reversed(pads[1]), strict=True) for side in pair]
    return call.builder.call(functional.pad, images, flat, "constant", value) if any(flat) else images


def layer_name(call: NodeCall, weight: int = 1) -> str:
    """The name that the layer had in PyTorch if the name of its weight tells, otherwise that of the node."""
    name = call.names[weight] if weight < len(call.names) else ""
    owner, dot, last = name.rpartition(".")
    return owner if dot and last == "weight" and "::" not in name else call.name


def with_weights(layer: Any, weight: Array, bias: Array | None) -> Any:
    """A layer made on the meta device, with these weights."""
    layer.weight = nn.Parameter(torch.from_numpy(weight.astype("float32")))
    layer.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias.astype("float32")))
    return layer


@operator("Conv")
def conv(call: NodeCall) -> GraphTensor:
    """Convolution."""
    images, weight, bias = call.plain(), call.constant(1), call.optional(2)
    rank = _rank(call, images, weight)
    kernel = list(weight.shape[2:])
    strides, dilations, pads = window(call, kernel, images.shape[2:])
    padding, groups = pads[0], call.attribute("group", 1)
    if pads[0] != pads[1] or min(pads[0]) < 0:
        images, padding = padded(call, images, pads), [0] * rank
    layer = _CONVOLUTIONS[rank][0](
        weight.shape[1] * groups, len(weight), kernel, strides, padding, dilations, groups, bias is not None, device="meta"
    )
    key = (*call.names[1:3], str(layer))
    made: GraphTensor = call.builder.apply(with_weights(layer, weight, bias), layer_name(call), images, key=key)
    return made


@operator("ConvTranspose")
def conv_transpose(call: NodeCall) -> GraphTensor:
    """Transposed convolution; unequal pads and a given output shape become a crop."""
    images, weight, bias = call.plain(), call.constant(1), call.optional(2)
    rank = _rank(call, images, weight)
    kernel, sides, groups = list(weight.shape[2:]), images.shape[2:], call.attribute("group", 1)
    strides, dilations = list(call.attribute("strides", [1] * rank)), list(call.attribute("dilations", [1] * rank))
    extra = list(call.attribute("output_padding", [0] * rank))
    pads = list(call.attribute("pads", [0] * 2 * rank))
    before, after = pads[:rank], pads[rank:]
    wanted, kind = call.attribute("output_shape", None), call.attribute("auto_pad", "NOTSET")
    if wanted is None and kind.startswith("SAME"):
        wanted = [side * stride for side, stride in zip(sides, strides, strict=True)]
    if wanted is not None:
        full = [
            (side - 1) * stride + (size - 1) * dilation + 1 + more
            for side, stride, size, dilation, more in zip(sides, strides, kernel, dilations, extra, strict=True)
        ]
        total = [have - want for have, want in zip(full, wanted[-rank:], strict=True)]
        halves = [each // 2 for each in total], [each - each // 2 for each in total]
        before, after = halves if kind == "SAME_UPPER" else halves[::-1]
    same = before == after and min(before) >= 0 and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    padding = before if same else [0] * rank
    layer = _CONVOLUTIONS[rank][1](
        len(weight), weight.shape[1] * groups, kernel, strides, padding, extra, groups, bias is not None, dilations, device="meta"
    )
    key = (*call.names[1:3], str(layer))
    made: GraphTensor = call.builder.apply(with_weights(layer, weight, bias), layer_name(call), images, key=key)
    return made if same else padded(call, made, ([-side for side in before], [-side for side in after]))


def _rank(call: NodeCall, images: GraphTensor, weight: Array) -> int:
    rank = weight.ndim - 2
    if rank not in _CONVOLUTIONS or images.ndim != weight.ndim:
        raise UnsupportedError(f"{call.op_type} with {rank} spatial axes")
    return rank
