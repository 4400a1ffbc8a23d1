"""Changes of resolution: resizing, and pixels moved to or from channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from planish.models.onnx.registry import NodeCall, operator
from planish.models.onnx.values import GraphTensor, UnsupportedError

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
_RATIO = 1e-4  # tolerated difference of a scale from the ratio of sides


@operator("Resize", "Upsample")
def resize(call: NodeCall) -> GraphTensor:
    """Interpolation of the spatial axes."""
    x = call.plain()
    factors, sides = _target(call, x)
    if all(side == old for side, old in zip(sides, x.shape[2:], strict=True)):
        return x
    mode, by = _mode(call, x, factors, sides)
    whole = [round(factor) for factor in factors]
    exact = all(side == old * factor for side, old, factor in zip(sides, x.shape[2:], whole, strict=True))
    size = {"scale_factor": [float(factor) for factor in whole]} if exact else {"size": sides}
    return call.builder.call(functional.interpolate, x, mode=mode, **size, **by)


@operator("DepthToSpace")
def depth_to_space(call: NodeCall) -> GraphTensor:
    """Channels become neighbouring pixels."""
    x, block = call.plain(), call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        made: GraphTensor = call.builder.apply(nn.PixelShuffle(block), call.name, x)
        return made
    split = call.builder.call(torch.unflatten, x, 1, [block, block, -1])
    moved = call.builder.call(torch.permute, split, [0, 3, 4, 1, 5, 2])
    return call.builder.call(torch.flatten, call.builder.call(torch.flatten, moved, 4, 5), 2, 3)


@operator("SpaceToDepth")
def space_to_depth(call: NodeCall) -> GraphTensor:
    """Neighbouring pixels become channels."""
    x, block = call.plain(), call.attribute("blocksize")
    split = call.builder.call(torch.unflatten, call.builder.call(torch.unflatten, x, 3, [-1, block]), 2, [-1, block])
    moved = call.builder.call(torch.permute, split, [0, 3, 5, 1, 2, 4])
    return call.builder.call(torch.flatten, moved, 1, 3)


def _target(call: NodeCall, x: GraphTensor) -> tuple[list[float], list[int]]:
    """The scale of each spatial axis, and its new size."""
    if call.op_type == "Upsample" or len(call.inputs) == 2:
        scales, sizes = call.option("scales", 1), None
    else:
        scales, sizes = call.optional(2), call.optional(3)
    old = x.shape
    axes = call.attribute("axes", list(range(x.ndim)))
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch" or x.ndim not in _LINEAR:
        raise UnsupportedError("Resize that keeps the aspect ratio, or of a tensor that is no image")
    if sizes is not None and len(sizes):
        new = list(old)
        for axis, side in zip(axes, sizes, strict=True):
            new[axis] = old[axis] if axis == 0 else int(side)
        factors = [float(a) / float(b) for a, b in zip(new[1:], old[1:], strict=True)]
    elif scales is not None and len(scales):
        by_axis = dict(zip(axes, map(float, scales), strict=True))
        factors = [by_axis.get(axis, 1.0) for axis in range(1, x.ndim)]
        new = [old[0], *(int(np.floor(side * factor + 1e-6)) for side, factor in zip(old[1:], factors, strict=True))]
        if by_axis.get(0, 1.0) != 1:
            raise UnsupportedError("Resize of the batch")
        if any(abs(a / b - factor) > _RATIO for a, b, factor in zip(new[1:], old[1:], factors, strict=True)):
            raise UnsupportedError("Resize by a scale that does not lead to whole pixels")
    else:
        raise UnsupportedError("Resize without scales or sizes")
    if factors[0] != 1:
        raise UnsupportedError("Resize of the channels")
    return factors[1:], [int(side) for side in new[2:]]


def _mode(call: NodeCall, x: GraphTensor, factors: list[float], sides: list[int]) -> tuple[str, dict[str, Any]]:
    """The arguments ``mode`` and ``align_corners`` of ``torch.nn.functional.interpolate``."""
    mode = call.attribute("mode", "nearest")
    default = "asymmetric" if call.op_type == "Upsample" or call.opset < 11 else "half_pixel"
    coordinates = call.attribute("coordinate_transformation_mode", default)
    if call.attribute("antialias", 0) or call.attribute("exclude_outside", 0):
        raise UnsupportedError("Resize with antialiasing, or without what lies outside")
    if mode == "nearest":
        rounding = call.attribute("nearest_mode", "floor" if default == "asymmetric" else "round_prefer_floor")
        places = [_nearest(coordinates, rounding, factor, side) for factor, side in zip(factors, sides, strict=True)]
        for name, shift in (("nearest", 0.0), ("nearest-exact", 0.5)):
            own = [np.floor((np.arange(side) + shift) / factor) for factor, side in zip(factors, sides, strict=True)]
            if all(np.array_equal(a, b) for a, b in zip(places, own, strict=True)):
                return name, {}
        raise UnsupportedError(f"Resize to the nearest pixel with {coordinates} and {rounding}")
    if mode not in ("linear", "bilinear", "cubic") or (
        mode == "cubic" and (x.ndim != 4 or call.attribute("cubic_coeff_a", -0.75) != -0.75)
    ):
        raise UnsupportedError(f"Resize of mode {mode}")
    name = "bicubic" if mode == "cubic" else _LINEAR[x.ndim]
    if coordinates in _HALF_PIXEL and (coordinates == "half_pixel" or min(sides) > 1):
        return name, {"align_corners": False}
    if coordinates == "align_corners":
        return name, {"align_corners": True}
    raise UnsupportedError(f"Resize of mode {mode} with {coordinates}")


def _nearest(coordinates: str, rounding: str, factor: float, side: int) -> Any:
    """The source pixel of each pixel along an axis, by ONNX's formula."""
    places = np.arange(side)
    source = {
        "asymmetric": places / factor,
        "half_pixel": (places + 0.5) / factor - 0.5,
        "pytorch_half_pixel": (places + 0.5) / factor - 0.5,
    }
    if coordinates not in source:
        raise UnsupportedError(f"Resize to the nearest pixel with {coordinates}")
    exact = source[coordinates]
    rounded = {
        "floor": np.floor(exact),
        "ceil": np.ceil(exact),
        "round_prefer_floor": np.ceil(exact - 0.5),
        "round_prefer_ceil": np.floor(exact + 0.5),
    }[rounding]
    return np.clip(rounded, 0, max(0, round(side / factor) - 1))
