"""Conversion of stored targets (normalized boxes, run-length encoded masks, label maps) to the tensors of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from planish.data.targets.objects import Objects

if TYPE_CHECKING:
    from planish.data.targets.geometry import Targets

_MANY_PIXELS = 4_000_000  # mask pixels decoded at once; larger masks are decoded one by one


def object_targets(objects: Sequence[Objects], mask_size: tuple[int, int] | None = None) -> Targets:
    """Convert objects to targets of detection and instance segmentation.

    Args:
        objects: the objects of each image.
        mask_size: height and width of the masks in pixels, independent of the image sizes; None for boxes only.

    Returns:
        For each image ``boxes``, float32 ``(M, 4)``, normalized xyxy, ``labels``, int64 ``(M,)``, and, with ``mask_size``, ``masks``, uint8
        ``(M, height, width)``, resized to the nearest pixel, with at least one pixel set. Crowds and difficult objects are returned
        separately, as ``ignored_boxes`` ``(K, 4)`` and ``ignored_labels`` ``(K,)`` of images that have some: inside these boxes the class
        is neither object nor background.
    """
    targets = []
    for some in objects:
        ignored = some.ignored
        keep = np.flatnonzero(~ignored)
        target = {"boxes": torch.from_numpy(some.boxes[keep]), "labels": torch.from_numpy(some.labels[keep])}
        if mask_size is not None:
            target["masks"] = torch.from_numpy(_masks(some, keep, *mask_size))
        if ignored.any():
            target["ignored_boxes"] = torch.from_numpy(some.boxes[ignored])
            target["ignored_labels"] = torch.from_numpy(some.labels[ignored])
        targets.append(target)
    return targets


def label_targets(maps: Sequence[npt.NDArray[np.uint8]], height: int, width: int) -> Tensor:
    """Targets of semantic segmentation, int64 ``(N, height, width)``, by nearest-neighbour resizing of label maps; 255 is ignored."""
    resized = np.empty((len(maps), height, width), np.uint8)
    for i, labels in enumerate(maps):
        resized[i] = _nearest(labels, height, width)
    return torch.from_numpy(resized).long()


def _masks(objects: Objects, keep: npt.NDArray[np.int64], height: int, width: int) -> npt.NDArray[np.uint8]:
    from pycocotools import mask as run_lengths

    small = np.empty((len(keep), height, width), np.uint8)
    if not len(keep):
        return small
    if objects.masks is None:
        raise ValueError("objects without masks")
    wanted: list[dict[str, Any]] = [objects.masks[i] for i in keep]
    together = max(1, _MANY_PIXELS // max(1, objects.height * objects.width))
    for start in range(0, len(wanted), together):
        # pycocotools decodes to (H, W, objects) in Fortran order, so the transpose needs no copy
        decoded = run_lengths.decode(wanted[start : start + together]).transpose(2, 0, 1)
        small[start : start + together] = _nearest(decoded, height, width)
    for i in np.flatnonzero(~small.any((1, 2))):
        left, top, right, bottom = objects.boxes[keep[i]]
        small[i, min(height - 1, int((top + bottom) / 2 * height)), min(width - 1, int((left + right) / 2 * width))] = 1
    return small


def _nearest(maps: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize maps to the nearest pixel (the one that contains the centre of each new pixel), ``(..., height, width)``."""
    if maps.shape[-2:] == (height, width):
        return maps
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip((height, width), maps.shape[-2:], strict=True)
    )
    return maps[..., rows[:, None], columns]
