"""Photometric augmentation of whole batches (colour, blur, noise, erasing), each image by its own amount.

Images are float ``(N, C, H, W)`` on the 0..255 scale, grey or RGB, and so are the results; amounts are ``(N, 1, 1, 1)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import rgb_to_grayscale

_SMALLEST_SIGMA = 1e-3  # pixels; gives neighbouring pixels a weight of 0
_TRUNCATED = 3  # radius of the blur kernel in sigmas


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` and clip."""
    return (images * factor).clamp_(0, 255)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the difference from the mean grey of the image by ``factor`` and clip."""
    grey = images if images.shape[1] == 1 else rgb_to_grayscale(images)
    return torch.lerp(grey.mean((1, 2, 3), keepdim=True), images, factor).clamp_(0, 255)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the HSV saturation by ``factor`` and clip it; hue and value do not change. Grey images are returned unchanged."""
    if images.shape[1] == 1:
        return images
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    most = value / chroma.clamp(min=1e-6)  # factor at which the saturation reaches 1
    return value - (value - images) * torch.minimum(factor, most)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the HSV hue by turns of the colour circle; saturation and value do not change. Grey images are returned unchanged."""
    if images.shape[1] == 1:
        return images
    red, green, blue = torch.split(images, 1, dim=1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    some = chroma.clamp(min=1e-6)
    from_blue = torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some)
    sixths = torch.where(value == red, (green - blue) / some, from_blue) + 6 * turns
    places = torch.remainder(sixths + torch.tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1).to(images), 6)
    return value - chroma * torch.minimum(places, 4 - places).clamp_(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Apply a Gaussian blur, with reflected edges.

    Args:
        images: float ``(N, C, H, W)``.
        sigma: standard deviation in pixels, at least 0.
    """
    for axis in (2, 3):
        side = images.shape[axis]
        reach = min(side - 1, math.ceil(_TRUNCATED * float(sigma.max())))
        offsets = torch.arange(-reach, reach + 1).to(images)
        weights = torch.softmax(-0.5 * (offsets.view(-1, 1, 1, 1, 1) / sigma.clamp(min=_SMALLEST_SIGMA)) ** 2, 0)
        padded = functional.pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="reflect")
        images = torch.zeros_like(images)
        for place, weight in enumerate(weights):
            images.addcmul_(padded.narrow(axis, place, side), weight)
    return images


def add_noise(images: Tensor, sigma: Tensor) -> Tensor:
    """Add independent Gaussian noise to every value and clip.

    Args:
        images: float ``(N, C, H, W)``.
        sigma: standard deviation in grey levels.
    """
    return (images + sigma * torch.randn(images.shape).to(images)).clamp_(0, 255)


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill a box in each image with random values (Zhong et al. 2017, arXiv:1708.04896).

    Args:
        images: float ``(N, C, H, W)``.
        boxes: normalized top, left, height and width, ``(N, 4)``.
    """
    top, left, tall, wide = boxes.to(images)[:, :, None, None, None].unbind(1)
    height, width = images.shape[2:]
    down, across = ((torch.arange(side).to(images) + 0.5) / side for side in (height, width))
    rows, columns = down.view(1, 1, -1, 1), across.view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
    return torch.where(inside, 255 * torch.rand(images.shape).to(images), images)
