"""Geometric transforms of masks, and their bounding boxes.

Masks are uint8 ``(T, h, w)``, 0 and 1, of any resolution; ``height`` and ``width`` are those of the image, in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from planish.data.augmentation.warp import nearest_pixels

Window = tuple[int, int, int, int]  # top, left, height, width in image pixels


def mask_boxes(masks: Tensor, height: int, width: int) -> Tensor:
    """The normalized xyxy bounding box of each mask, float32 ``(T, 4)``; invalid (right <= left) for an empty mask."""
    ends = []
    for axis, side in ((1, width), (2, height)):  # columns, then rows
        there = masks.amax(axis)
        length = there.shape[1]
        unsure = _unsure(length, side)
        first, last = there.argmax(1), length - there.flip(1).argmax(1)
        last = torch.where(there.amax(1) > 0, last, -length)
        ends.append(((first - unsure) / length, (last + unsure) / length))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1)


def box_masks(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Rasterize normalized xyxy boxes, ``(T, 4)``, to masks uint8 ``(T, rows, columns)`` of all pixels that they touch."""
    row, column = torch.arange(rows), torch.arange(columns)
    left, top, right, bottom = (boxes * torch.tensor([columns, rows, columns, rows])).unsqueeze(2).unbind(1)
    down, across = (row + 1 > top) & (row < bottom), (column + 1 > left) & (column < right)
    return (down.unsqueeze(2) & across.unsqueeze(1)).to(torch.uint8)


def moved_mask_boxes(masks: Tensor, matrices: Tensor, height: int, width: int, window: Window) -> tuple[Tensor, Tensor]:
    """The axis-aligned bounding box of the visible part of each mask after a transform.

    It is computed from the geometry rather than from a resampled mask, which would lose thin parts.

    Args:
        masks: masks before the transform.
        matrices: one matrix per mask, ``(T, 3, 3)``, in image pixels from the centre.
        height: image height in pixels.
        width: image width in pixels.
        window: the part of the transformed image that is visible.

    Returns:
        Boxes in pixels from the top left corner of the image, ``(T, 4)``, and the visible fraction of each mask, ``(T,)``.
    """
    count, rows, columns = masks.shape
    first = masks.argmax(2).float() - _unsure(columns, width)
    last = columns - masks.flip(2).argmax(2).float() + _unsure(columns, width)
    there = masks.amax(2) > 0
    # the upper and lower corners of each mask row, from its first to its last pixel, (T, 2, h)
    unsure, row = _unsure(rows, height), torch.arange(rows, dtype=torch.float32)
    y = (torch.stack([row - unsure, row + 1 + unsure]) * (height / rows) - height / 2).expand(count, -1, -1)
    lefts, rights = (torch.stack([(x * (width / columns) - width / 2)[:, None].expand(-1, 2, -1), y], 3) for x in (first, last))
    turn, shift = matrices[:, None, :2, :2].mT, matrices[:, None, None, :2, 2] + torch.tensor([width / 2, height / 2])
    new_lefts, new_rights = lefts @ turn + shift, rights @ turn + shift
    starts = torch.stack([new_lefts[:, 0], new_lefts[:, 1], new_lefts[:, 0], new_rights[:, 0]], 1)
    ends = torch.stack([new_rights[:, 0], new_rights[:, 1], new_lefts[:, 1], new_rights[:, 1]], 1)
    enters, leaves = _inside(starts, ends, window)
    seen = there[:, None] & (leaves >= enters)
    edges = torch.stack([torch.lerp(starts, ends, at[..., None]) for at in (enters, leaves)], 1).flatten(1, 3)
    # the visible part of a row is bounded by its edges and by the window corners that lie in it
    corners, inside = _window_corners(masks, matrices, height, width, window)
    points, known = torch.cat([edges, corners], 1), torch.cat([seen.flatten(1), seen.flatten(1), inside], 1)[..., None]
    boxes = torch.cat([points.where(known, torch.inf).amin(1), points.where(known, -torch.inf).amax(1)], 1)
    length = (last - first)[:, None]
    part = ((leaves - enters) * length * seen)[:, :2].sum((1, 2)) / (2 * length * there[:, None]).sum((1, 2)).clamp(min=1e-9)
    return boxes.nan_to_num(posinf=0.0, neginf=0.0), part


def _inside(starts: Tensor, ends: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The positions along line segments, 0 to 1, where they enter and leave a window (Liang and Barsky 1984); leave < enter if outside."""
    top, left, tall, wide = window
    along = ends - starts
    along = torch.where(along.abs() < 1e-5, 1e-5, along)
    one, other = (
        (torch.tensor(corner) - starts) / along for corner in ((left - 1e-3, top - 1e-3), (left + wide + 1e-3, top + tall + 1e-3))
    )
    return one.minimum(other).amax(-1).clamp(min=0), one.maximum(other).amin(-1).clamp(max=1)


def _window_corners(masks: Tensor, matrices: Tensor, height: int, width: int, window: Window) -> tuple[Tensor, Tensor]:
    """The corners of the window, ``(T, 4, 2)``, and whether each transformed mask covers them, ``(T, 4)``."""
    top, left, tall, wide = window
    corners = torch.tensor([(x, y) for x in (left, left + wide) for y in (top, top + tall)], dtype=torch.float32)
    half = torch.tensor([width / 2, height / 2])
    back = torch.linalg.inv(matrices)
    old = (corners - half) @ back[:, :2, :2].mT + back[:, None, :2, 2] + half
    size = torch.tensor([masks.shape[2], masks.shape[1]])
    unsure = torch.tensor([_unsure(masks.shape[2], width), _unsure(masks.shape[1], height)])
    around = torch.tensor([(x, y) for x in (-1, 1) for y in (-1, 1)]) * unsure
    x, y = ((old * (size / torch.tensor([width, height])))[:, :, None] + around).floor().long().unbind(3)
    outside = (x < 0) | (y < 0) | (x >= size[0]) | (y >= size[1])
    at = (y * size[0] + x).masked_fill(outside, 0).flatten(1)
    found = (masks.flatten(1).gather(1, at) > 0).view_as(outside) & ~outside
    return corners.expand(len(masks), -1, -1), found.any(2)


def move_masks(masks: Tensor, image: Tensor, matrices: Tensor, height: int, width: int, window: Window) -> Tensor:
    """Transform masks with nearest-neighbour resampling; 0 outside the window, uint8 ``(T, h, w)``.

    Args:
        masks: masks before the transform.
        image: image index of each mask, ascending, ``(T,)``.
        matrices: one matrix per image, ``(N, 3, 3)``.
        height: image height in pixels.
        width: image width in pixels.
        window: the part of the transformed images that is visible.
    """
    y, x = masks.shape[1] / height, masks.shape[2] / width
    top, left, tall, wide = scaled_window(window, x, y)
    pixels = nearest_pixels(scaled(matrices, x, y), masks.shape[1], masks.shape[2], (top, left, tall, wide))
    moved = torch.zeros_like(masks)
    first = 0
    for number, count in enumerate(torch.bincount(image, minlength=len(matrices)).tolist()):
        if count:  # all masks of an image are resampled with the same indices
            rows = slice(first, first + count)
            picked = functional.pad(masks[rows].flatten(1), (0, 1)).index_select(1, pixels[number])
            moved[rows, top : top + tall, left : left + wide] = picked.view(count, tall, wide)
            first += count
    return moved


def scaled(matrices: Tensor, x: float, y: float) -> Tensor:
    """The same transforms in pixels of a map that is ``x`` times as wide and ``y`` times as high."""
    sides = torch.tensor([x, y, 1.0])
    return sides[:, None] * matrices / sides


def scaled_window(window: Window, x: float, y: float) -> Window:
    """The same window in pixels of a map that is ``x`` times as wide and ``y`` times as high as the image."""
    top, left, tall, wide = window
    rows, columns = (round(top * y), round((top + tall) * y)), (round(left * x), round((left + wide) * x))
    return rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0]


def _unsure(length: int, side: int) -> float:
    """By how many mask pixels the edge may lie too far inward, since the mask was downsampled (nearest) from ``side`` to ``length``."""
    return max(0.0, 0.5 - 0.5 * length / side)
