"""Boxes, masks and label maps that move with their images.

Targets are those of a batch: of each image ``boxes`` ``(M, 4)`` as shares of the sides, ``labels`` ``(M,)`` and, where there are masks,
``masks`` uint8 ``(M, H, W)``; or label maps int64 ``(N, H, W)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Targets = list[dict[str, Tensor]] | Tensor

IGNORED = 255
_LEFT = 0.25  # of an object's box that must be in the image
_SMALLEST = 2.0  # pixels of its shorter side


def moved(targets: Targets, matrices: Tensor, height: int, width: int) -> Targets:
    """Targets after ``warp`` with these matrices ``(N, 3, 3)``, pixels from the centre; see ``planish.data.warp``."""
    if isinstance(targets, Tensor):
        maps = _nearest(targets[:, None].float() - IGNORED, matrices)  # what comes from outside is 0, and so ignored
        return (maps[:, 0] + IGNORED).round().long()
    return [_moved(one, matrix, height, width) for one, matrix in zip(targets, matrices, strict=True)]


def mirrored(targets: Targets, which: Tensor, axis: int) -> Targets:
    """Targets of images of which some ``(N,)`` are mirrored, along axis 2 (upside down) or 3 (left to right) of the images."""
    if isinstance(targets, Tensor):
        return torch.where(which[:, None, None], targets.flip(axis - 1), targets)
    found = []
    for one, turned in zip(targets, which.tolist(), strict=True):
        if turned:
            boxes = one["boxes"].clone()
            first, second = (0, 2) if axis == 3 else (1, 3)
            boxes[:, first], boxes[:, second] = 1 - one["boxes"][:, second], 1 - one["boxes"][:, first]
            one = one | {"boxes": boxes} | ({"masks": one["masks"].flip(axis - 1)} if "masks" in one else {})
        found.append(one)
    return found


def within(one: dict[str, Tensor], before: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """An image's objects cut at its edges; those of which too little is left are dropped.

    Args:
        one: with boxes that may reach beyond the image.
        before: areas of whole boxes ``(M,)``, in shares of the image.
        height: of the image, in pixels.
        width: likewise.
    """
    boxes = one["boxes"].clamp(0, 1)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = (sides.prod(1) >= _LEFT * before) & ((sides * torch.tensor([width, height])).amin(1) >= _SMALLEST)
    if "masks" in one:
        kept &= one["masks"].flatten(1).any(1)
    return {name: values[kept] for name, values in (one | {"boxes": boxes}).items()}


def _moved(one: dict[str, Tensor], matrix: Tensor, height: int, width: int) -> dict[str, Tensor]:
    if not len(one["labels"]):
        return one
    size = torch.tensor([width, height], dtype=torch.float32)
    left, top, right, bottom = one["boxes"].unbind(1)
    corners = torch.stack([torch.stack([x, y], 1) for x in (left, right) for y in (top, bottom)], 1)  # (M, 4, 2)
    points = (corners - 0.5) * size
    points = points @ matrix[:2, :2].T + matrix[:2, 2]
    points = points / size + 0.5
    one = one | {"boxes": torch.cat([points.amin(1), points.amax(1)], 1)}
    whole = (one["boxes"][:, 2:] - one["boxes"][:, :2]).prod(1)
    if "masks" in one:
        masks = _nearest(one["masks"][None].float(), matrix[None])[0].to(torch.uint8)
        one = one | {"masks": masks, "boxes": _around(masks, one["boxes"])}
    return within(one, whole, height, width)


def _around(masks: Tensor, boxes: Tensor) -> Tensor:
    """The box of what a mask covers is tighter than the turned corners of the box it had; boxes of empty masks stay."""
    found = boxes.clone()
    for i, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            height, width = mask.shape
            ends = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
            found[i] = torch.cat(ends)
    return found


def _nearest(images: Tensor, matrices: Tensor) -> Tensor:
    height, width = images.shape[2:]
    halves = torch.tensor([width / 2, height / 2, 1.0])
    back = torch.linalg.inv(matrices) * halves / halves[:, None]
    grid = functional.affine_grid(back[:, :2].to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The objects of several images as those of one."""
    names: Any = parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in names}
