"""Geometric transforms of images with their boxes, masks and label maps, for all objects of a batch at once.

Matrices are those of ``planish.data.augmentation.warp``: they map the old image to the new one, in pixels from the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from planish.data.augmentation.warp import nearest_pixels, warp
from planish.data.targets.mask_geometry import Window, box_masks, mask_boxes, move_masks, moved_mask_boxes, scaled, scaled_window
from planish.errors import TrainingError

Targets = list[dict[str, Tensor]]

IGNORED = 255  # label of ignored pixels
LEAST_LEFT = 0.25  # smallest visible fraction of an object that is kept
_SMALLEST = 1.0  # pixels; objects that are thinner after the transform are dropped


@dataclass(frozen=True, eq=False)
class ObjectBatch:
    """All objects of a batch of images.

    Args:
        boxes: normalized xyxy boxes, float32 ``(T, 4)``.
        labels: class indices, int64 ``(T,)``.
        image: image index of each object, int64 ``(T,)``, ascending.
        count: number of images.
        masks: uint8 ``(T, h, w)``, 0 and 1; None without masks.
        ignored: bool ``(T,)``, True for regions that are neither object nor background, whose masks are their boxes; None without any.
    """

    boxes: Tensor
    labels: Tensor
    image: Tensor
    count: int
    masks: Tensor | None = None
    ignored: Tensor | None = None

    @classmethod
    def of(cls, targets: Sequence[dict[str, Tensor]]) -> ObjectBatch:
        """Concatenate the targets of single images; see ``planish.data.targets.rasterise.object_targets``.

        Raises:
            TrainingError: some have masks and some have none, or masks differ in size.
        """
        image = torch.repeat_interleave(torch.tensor([len(t["labels"]) for t in targets], dtype=torch.int64))
        masks = [t["masks"] for t in targets if "masks" in t]
        if masks and (len(masks) < len(targets) or len({m.shape[1:] for m in masks}) > 1):
            raise TrainingError(
                f"a batch with masks of {len(masks)} of {len(targets)} images, of sizes {sorted({tuple(m.shape[1:]) for m in masks})}",
                "all images of a batch have masks of one size, or none has any",
            )
        if not targets:
            return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image, 0)
        boxes = torch.cat([t["boxes"].reshape(-1, 4).float() for t in targets])
        counted = cls(boxes, torch.cat([t["labels"] for t in targets]), image, len(targets), torch.cat(masks) if masks else None)
        ignored = _ignored(targets, None if counted.masks is None else counted.masks.shape[1:])
        return counted if ignored is None else joined([counted, ignored])

    def split(self) -> Targets:
        """Split into the targets of each image, the inverse of ``of``."""
        if self.ignored is not None and self.ignored.any():
            counted = replace(self.kept(~self.ignored), ignored=None).split()
            ignored = replace(self.kept(self.ignored), ignored=None, masks=None).split()
            names = {"boxes": "ignored_boxes", "labels": "ignored_labels"}
            return [
                one | ({new: more[name] for name, new in names.items()} if len(more["labels"]) else {})
                for one, more in zip(counted, ignored, strict=True)
            ]
        sizes = torch.bincount(self.image, minlength=self.count).tolist()
        named = {"boxes": self.boxes, "labels": self.labels} | ({} if self.masks is None else {"masks": self.masks})
        parts = {name: torch.split(tensor, sizes) for name, tensor in named.items()}
        return [{name: parts[name][i] for name in named} for i in range(self.count)]

    def kept(self, keep: Tensor) -> ObjectBatch:
        """Select objects.

        Args:
            keep: which objects to keep, bool ``(T,)``.
        """
        if keep.all():
            return self
        rows = keep.nonzero()[:, 0]
        return self._rows(rows, self.image[rows], self.count)

    def _rows(self, rows: Tensor, image: Tensor, count: int) -> ObjectBatch:
        masks = None if self.masks is None else self.masks.index_select(0, rows)  # several times as fast as ``masks[rows]``
        ignored = None if self.ignored is None else self.ignored[rows]
        return ObjectBatch(self.boxes[rows], self.labels[rows], image, count, masks, ignored)

    def taken(self, sources: Tensor) -> ObjectBatch:
        """Select or reorder images, with their objects.

        Args:
            sources: index of the source image for each image of the result, ``(n,)``; images may be repeated or omitted.
        """
        sizes = torch.bincount(self.image, minlength=self.count)
        wanted = sizes[sources]
        starts = (sizes.cumsum(0) - sizes)[sources] - (wanted.cumsum(0) - wanted)
        rows = torch.arange(int(wanted.sum())) + torch.repeat_interleave(starts, wanted)
        return self._rows(rows, torch.repeat_interleave(wanted), len(sources))


def joined(parts: Sequence[ObjectBatch], images: Sequence[Tensor] | None = None, count: int | None = None) -> ObjectBatch:
    """Merge batches of objects, sorted by image.

    Args:
        parts: batches with objects of the same images, unless ``images`` is given.
        images: for each part, the index of each of its images in the result.
        count: number of images in the result; None for that of the first part.
    """
    image = torch.cat([p.image if images is None else images[k][p.image] for k, p in enumerate(parts)])
    order = image.argsort(stable=True)
    masks = [p.masks for p in parts if p.masks is not None]
    ignored = [torch.zeros_like(p.labels, dtype=torch.bool) if p.ignored is None else p.ignored for p in parts]
    return ObjectBatch(
        torch.cat([p.boxes for p in parts])[order],
        torch.cat([p.labels for p in parts])[order],
        image[order],
        parts[0].count if count is None else count,
        torch.cat(masks).index_select(0, order) if masks else None,
        torch.cat(ignored)[order] if any(p.ignored is not None for p in parts) else None,
    )


def _ignored(targets: Sequence[dict[str, Tensor]], mask_size: Sequence[int] | None) -> ObjectBatch | None:
    """The ignored objects of single images, with their boxes as masks if ``mask_size`` is given; None if there are none."""
    counts = [len(t.get("ignored_labels", ())) for t in targets]
    if not any(counts):
        return None
    some = [t for t, count in zip(targets, counts, strict=True) if count]
    boxes, labels = torch.cat([t["ignored_boxes"].float() for t in some]), torch.cat([t["ignored_labels"] for t in some])
    masks = None if mask_size is None else box_masks(boxes, *mask_size)
    image = torch.repeat_interleave(torch.tensor(counts))
    return ObjectBatch(boxes, labels, image, len(targets), masks, torch.ones_like(labels, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """A batch of images with their targets: objects or label maps.

    Args:
        images: float ``(N, C, H, W)`` on the 0..255 scale.
        objects: objects of these images, or None.
        maps: label maps, int64 ``(N, h, w)``, or None.
    """

    images: Tensor
    objects: ObjectBatch | None
    maps: Tensor | None

    def taken(self, sources: Tensor) -> ImageBatch:
        """Select or reorder images, with their targets; images may be repeated or omitted."""
        objects = None if self.objects is None else self.objects.taken(sources)
        maps = None if self.maps is None else self.maps.index_select(0, sources)
        return ImageBatch(self.images.index_select(0, sources), objects, maps)

    def moved(self, matrices: Tensor, outside: Literal["zeros", "border"] = "zeros", window: Window | None = None) -> ImageBatch:
        """Transform images and targets by one matrix per image; images and label maps are cropped to the window."""
        height, width = self.images.shape[2:]
        return ImageBatch(
            warp(self.images, matrices, outside, window=window),
            None if self.objects is None else move_objects(self.objects, matrices, height, width, window),
            None if self.maps is None else move_labels(self.maps, matrices, height, width, window),
        )

    def mirrored(self, across: Tensor, down: Tensor) -> ImageBatch:
        """Flip horizontally where ``across`` and vertically where ``down``, both bool ``(N,)``, without resampling."""
        (height, width), images = self.images.shape[2:], self.images
        for axis, which in ((3, across), (2, down)):
            if which.any():
                images = torch.where(which.view(-1, 1, 1, 1).to(images.device), images.flip(axis), images)
        matrices = flip_matrices(across, down)
        return ImageBatch(
            images,
            None if self.objects is None else move_objects(self.objects, matrices, height, width),
            None if self.maps is None else move_labels(self.maps, matrices, height, width),
        )


def move_objects(objects: ObjectBatch, matrices: Tensor, height: int, width: int, window: Window | None = None) -> ObjectBatch:
    """Transform objects with their images, and drop those of which less than a quarter (of the mask, or of the box if there are no masks)
    remains visible. Ignored objects are kept whatever remains of them.

    A rotated box becomes its axis-aligned bounding box, clipped to the window; with a mask, it shrinks to the bounding box of the mask.

    Args:
        objects: objects of the images.
        matrices: one matrix per image, ``(N, 3, 3)``.
        height: image height in pixels.
        width: image width in pixels.
        window: the part of the transformed image that is visible; None for all of it. Boxes and masks still refer to the whole image.
    """
    if not len(objects.labels):
        return objects
    top, left, tall, wide = window or (0, 0, height, width)
    around = _hulls(objects.boxes, matrices[objects.image], height, width)
    low, high = torch.tensor([left, top]), torch.tensor([left + wide, top + tall])
    seen = torch.cat([around[:, :2].maximum(low), around[:, 2:].minimum(high)], 1)
    sides = (seen[:, 2:] - seen[:, :2]).clamp(min=0)
    share = sides.prod(1) / (around[:, 2:] - around[:, :2]).prod(1).clamp(min=1e-9)
    keep = ((share >= LEAST_LEFT) | _may_be_a_rest(objects)) & (sides >= _SMALLEST).all(1)
    moved = replace(objects, boxes=seen / torch.tensor([width, height, width, height])).kept(keep)
    if moved.masks is None or not len(moved.labels):
        return moved
    tight, share = moved_mask_boxes(moved.masks, matrices[moved.image], height, width, (top, left, tall, wide))
    masks = move_masks(moved.masks, moved.image, matrices, height, width, (top, left, tall, wide))
    boxes = _within(moved.boxes, tight / torch.tensor([width, height, width, height]))
    at = ((boxes[:, :2] + boxes[:, 2:]) / 2 * torch.tensor([masks.shape[2], masks.shape[1]])).long()
    lost = (masks.flatten(1).amax(1) == 0).nonzero()[:, 0]  # too thin to cover a pixel
    masks[lost, at[lost, 1].clamp(0, masks.shape[1] - 1), at[lost, 0].clamp(0, masks.shape[2] - 1)] = 1
    enough = share >= LEAST_LEFT if moved.ignored is None else (share >= LEAST_LEFT) | moved.ignored
    return replace(moved, boxes=boxes, masks=masks).kept(enough & _wide_enough(boxes, height, width))


def _may_be_a_rest(objects: ObjectBatch) -> Tensor:
    """Which objects are kept however little of their box is visible: those with masks (checked by mask area later) and ignored ones."""
    if objects.masks is not None:
        return torch.ones_like(objects.labels, dtype=torch.bool)
    return torch.zeros_like(objects.labels, dtype=torch.bool) if objects.ignored is None else objects.ignored


def covered(objects: ObjectBatch, hidden: Tensor, height: int, width: int) -> ObjectBatch:
    """Occlude objects: remove hidden pixels from masks, shrink boxes to the rest, and drop objects of which less than a quarter remains.

    Args:
        objects: objects with masks.
        hidden: occluded pixels of each image, uint8 ``(N, h, w)``, 0 and 1.
        height: image height in pixels.
        width: image width in pixels.
    """
    old = objects.masks
    if old is None or not len(old):
        return objects
    masks = old * (1 - hidden).index_select(0, objects.image)
    before, after = (m.sum((1, 2), dtype=torch.int32) for m in (old, masks))
    tight = _within(objects.boxes, mask_boxes(masks, height, width))
    boxes = torch.where((after < before)[:, None], tight, objects.boxes)
    enough = after >= LEAST_LEFT * before if objects.ignored is None else (after >= LEAST_LEFT * before) | objects.ignored & (after > 0)
    keep = enough & _wide_enough(boxes, height, width)
    return replace(objects, boxes=boxes, masks=masks).kept(keep)


def _within(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2].maximum(limits[:, :2]), boxes[:, 2:].minimum(limits[:, 2:])], 1)


def _wide_enough(boxes: Tensor, height: int, width: int) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]) * torch.tensor([width, height])
    return (sides >= _SMALLEST - 1e-3).all(1)


def move_labels(maps: Tensor, matrices: Tensor, height: int, width: int, window: Window | None = None) -> Tensor:
    """Transform label maps ``(N, h, w)`` with their images; pixels from outside become ``IGNORED``. Arguments as in ``move_objects``.

    Returns:
        Label maps of the same type, ``(N, h, w)``, or of the size of the window.
    """
    tall, wide = maps.shape[1:]
    y, x = tall / height, wide / width
    part = (0, 0, tall, wide) if window is None else scaled_window(window, x, y)
    pixels = nearest_pixels(scaled(matrices, x, y), tall, wide, part)
    flat = functional.pad(maps.flatten(1), (0, 1), value=IGNORED)
    return flat.gather(1, pixels).view(-1, *part[2:])


def flip_matrices(across: Tensor, down: Tensor) -> Tensor:
    """Matrices that flip horizontally where ``across`` and vertically where ``down``, both bool ``(N,)``."""
    return torch.diag_embed(torch.stack([1 - 2.0 * across, 1 - 2.0 * down, torch.ones(len(across))], 1))


def _hulls(boxes: Tensor, matrices: Tensor, height: int, width: int) -> Tensor:
    """The axis-aligned bounding boxes of transformed boxes, in pixels from the top left corner, ``(T, 4)``."""
    half = torch.tensor([width / 2, height / 2])
    corners = torch.stack([boxes[:, [0, 1]], boxes[:, [2, 1]], boxes[:, [0, 3]], boxes[:, [2, 3]]], 1) * (2 * half) - half
    points = corners @ matrices[:, :2, :2].mT + matrices[:, None, :2, 2] + half
    return torch.cat([points.amin(1), points.amax(1)], 1)
