"""Affine transforms of whole batches: one matrix per image, and a single resampling for all of them.

Matrices are ``(N, 3, 3)`` and map a point of the old image to the new one, in pixels from the centre, x to the right and y down. A matrix
product applies its factors from right to left.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def affine_matrices(degrees: Tensor, factor: Tensor, shear: Tensor, shift: Tensor) -> Tensor:
    """Shear, then scale, rotate and shift, about the centre; the matrix of ``torchvision.transforms.v2.functional.affine``.

    Args:
        degrees: clockwise rotation, ``(N,)``.
        factor: scale factor, above 1 enlarges, ``(N,)``.
        shear: horizontal shear angle in degrees, ``(N,)``.
        shift: translation to the right and down in pixels, ``(N, 2)``.
    """
    angle, lean = degrees.deg2rad(), shear.deg2rad().tan()
    cos, sin = factor * angle.cos(), factor * angle.sin()
    right, down = shift.unbind(1)
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    return torch.stack([cos, -cos * lean - sin, right, sin, cos - sin * lean, down, zero, zero, one], 1).view(-1, 3, 3)


def crop_matrices(boxes: Tensor, height: int, width: int) -> Tensor:
    """Matrices that crop each box and resize it to the image.

    Args:
        boxes: see ``random_boxes``.
        height: image height in pixels.
        width: image width in pixels.
    """
    top, left, tall, wide = boxes.unbind(1)
    right, down = -(left + wide / 2 - 0.5) * width / wide, -(top + tall / 2 - 0.5) * height / tall
    zero, one = torch.zeros_like(top), torch.ones_like(top)
    return torch.stack([1 / wide, zero, right, zero, 1 / tall, down, zero, zero, one], 1).view(-1, 3, 3)


def random_boxes(count: int, low: float, high: float, stretch: float) -> Tensor:
    """Random boxes inside an image, ``(count, 4)``: normalized top, left, height and width. Uses PyTorch's global random generator.

    Args:
        count: number of boxes.
        low: smallest fraction of the image area.
        high: largest fraction of the image area; uniform between the two.
        stretch: the aspect ratio is that of the image times 1 / stretch to stretch, or a narrower range if the box would not fit.
    """
    area = torch.empty(count).uniform_(low, high)
    most = (-area.log()).clamp(max=math.log(stretch))
    ratio = (most * torch.empty(count).uniform_(-1, 1)).exp()
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 1).clamp(max=1)
    return torch.cat([torch.rand(count, 2) * (1 - sides), sides], 1)


def warp(
    images: Tensor,
    matrices: Tensor,
    outside: Literal["zeros", "border"] = "zeros",
    window: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """Transform each image by its matrix with bilinear resampling.

    Args:
        images: float ``(N, C, H, W)``.
        matrices: ``(N, 3, 3)``.
        outside: pixels from outside the image are black (``zeros``) or repeat the edge (``border``).
        window: top, left, height and width in pixels of the part of the result to return; None for all of it.

    Returns:
        Float ``(N, C, H, W)``, or of the size of the window.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = window or (0, 0, height, width)
    halves = torch.tensor([width / 2, height / 2, 1.0])
    # ``affine_grid`` uses coordinates from -1 to 1: those of the window to pixels from the centre, inverse matrix, then those of the image
    onto = torch.tensor([[wide / 2, 0, left + wide / 2 - width / 2], [0, tall / 2, top + tall / 2 - height / 2], [0, 0, 1]])
    back = torch.linalg.inv(matrices) @ onto / halves[:, None]
    grid = functional.affine_grid(back[:, :2].to(images), [*images.shape[:2], tall, wide], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def nearest_pixels(matrices: Tensor, height: int, width: int, window: tuple[int, int, int, int]) -> Tensor:
    """Source pixel indices of a nearest-neighbour transform, for maps that cannot be interpolated, such as masks; index flattened maps with
    them.

    Args:
        matrices: ``(N, 3, 3)``.
        height: height of the maps.
        width: width of the maps.
        window: see ``warp``.

    Returns:
        ``row * width + column``, or ``height * width`` for pixels from outside the map; int64 ``(N, pixels of the window)``.
    """
    top, left, tall, wide = window
    back = torch.linalg.inv(matrices)[:, :2, :, None]
    across = torch.arange(left + 0.5 - width / 2, left + wide - width / 2)
    down = torch.arange(top + 0.5 - height / 2, top + tall - height / 2)
    # both coordinates of every new pixel in the old image, (N, 2, tall, wide), in pixels from the top left corner
    half = torch.tensor([width / 2, height / 2]).view(1, 2, 1)
    old = (back[:, :, 1] * down + back[:, :, 2] + half)[..., None] + (back[:, :, 0] * across)[:, :, None]
    column, row = old.floor_().unbind(1)
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    pixels: Tensor = row.mul_(width).add_(column).masked_fill_(outside, height * width)
    return pixels.long().flatten(1)
