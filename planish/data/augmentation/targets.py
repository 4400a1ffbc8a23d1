"""Augmentation of training images together with their boxes, masks or label maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from planish.data.augmentation import mixing
from planish.data.augmentation.operations import Operations, move_matrices, moves, pixel_changes, to_uint8
from planish.data.augmentation.policy import Augmentation, Strength, drawing_from
from planish.data.targets.geometry import ImageBatch, ObjectBatch, Targets, flip_matrices, joined
from planish.errors import TrainingError

if TYPE_CHECKING:
    from planish.artifact import InputSpec

AnyTargets = Targets | Tensor
TargetAugment = Callable[[Tensor, AnyTargets, torch.Generator], tuple[Tensor, Any]]

STRENGTHS: dict[Strength, Operations] = {
    "none": Operations(),
    "light": Operations(crop=(0.5, 1.0), flip=True),
    "standard": Operations(
        crop=(0.4, 1.0),
        shear=2.0,
        scale=(0.6, 1.0),
        rotate=5.0,
        shift=0.05,
        flip=True,
        brightness=0.3,
        contrast=0.3,
        saturation=0.4,
    ),
}
_SMALL_SIDE, _SMALL_CHUNK = 64, 4  # as in planish.data.augmentation.policy


def augment_targets(
    spec: InputSpec,
    augmentation: Augmentation,
    flip: bool = True,
    *,
    mosaic: float = 0.0,
    mixup_alpha: float = 0.0,
    copy_paste: float = 0.0,
) -> TargetAugment:
    """Create the augmentation function: from uint8 images ``(N, C, H, W)``, targets and a random generator to augmented images and targets.

    Targets are a list with one dict per image (``boxes`` float32 ``(M, 4)``, normalized xyxy, ``labels`` int64 ``(M,)``, optionally
    ``masks`` uint8 ``(M, h, w)`` of one size in the whole batch), or label maps int64 ``(N, h, w)``. Objects of which less than a quarter
    remains visible are dropped; pixels of label maps that come from outside an image are 255 (ignored).

    ``none`` changes nothing. ``light`` crops and mirrors. ``standard`` also scales down, rotates, shears and shifts a little and changes
    colours; see ``STRENGTHS``. RandAugment and TrivialAugment in ``Operations`` are restricted to operations that do not move objects. All
    geometric transforms, including the mosaic, are one resampling. The order is mosaic, copy-paste, colours, mixup; after mixup, images are
    float and targets are ``mixing.Mixed``.

    Args:
        spec: size of the images.
        augmentation: a preset, or ``Operations``.
        flip: False disables mirroring left to right, overriding ``Operations``.
        mosaic: probability that an image is replaced by a mosaic of itself and three random images of the batch.
        mixup_alpha: see ``mixing.mixup``; 0 disables mixup.
        copy_paste: probability that objects of another image are pasted into an image; requires masks.

    Raises:
        TrainingError: ``augmentation`` is neither one of the three presets nor ``Operations``, a probability is not between 0 and 1, or
            ``mixup_alpha`` is negative.

    Example:
        >>> from planish.artifact import InputSpec
        >>> change = augment_targets(InputSpec(3, 64, 64), "standard", mosaic=0.5)
        >>> targets = [{"boxes": torch.tensor([[0.2, 0.2, 0.6, 0.6]]), "labels": torch.tensor([3])}] * 8
        >>> images, targets = change(torch.zeros(8, 3, 64, 64, dtype=torch.uint8), targets, torch.Generator().manual_seed(0))
        >>> images.shape, len(targets)
        (torch.Size([8, 3, 64, 64]), 8)
    """
    if isinstance(augmentation, Operations):
        operations = augmentation
    elif augmentation in get_args(Strength):
        operations = STRENGTHS[augmentation]
    else:
        raise TrainingError(
            f"augmentation {augmentation!r}",
            f"it is one of {', '.join(get_args(Strength))}, or Operations",
            "for example Operations(rotate=15)",
        )
    chances = {"mosaic": mosaic, "copy_paste": copy_paste}
    if wrong := [f"{name}={chance}" for name, chance in chances.items() if not 0 <= chance <= 1]:
        raise TrainingError(", ".join(wrong), "it is the share of images, between 0 and 1")
    if mixup_alpha < 0:
        raise TrainingError(f"mixup_alpha={mixup_alpha}", "it is at least 0, and 0 is off")
    colours = pixel_changes(operations, _SMALL_CHUNK if max(spec.height, spec.width) <= _SMALL_SIDE else 1, in_place=True)
    nothing = operations == Operations() and not any(chances.values())

    def apply(images: Tensor, targets: AnyTargets, generator: torch.Generator) -> tuple[Tensor, AnyTargets]:
        if nothing or len(images) == 0:
            return images, targets
        values = images.to(torch.float32, memory_format=torch.contiguous_format)
        with drawing_from(generator):
            batch = ImageBatch(values, None, targets) if isinstance(targets, Tensor) else ImageBatch(values, ObjectBatch.of(targets), None)
            batch = _placed(batch, operations, flip, _chosen(mosaic, len(images)))
            if len(rows := _chosen(copy_paste, len(images)).nonzero()[:, 0]):
                batch = mixing.copy_paste(batch, rows)
            values = batch.images
            for colour in colours:
                values = colour(values)
        changed = batch.maps if batch.objects is None else batch.objects.split()
        return to_uint8(values), targets if changed is None else changed

    def apply_and_mix(images: Tensor, targets: AnyTargets, generator: torch.Generator) -> tuple[Tensor, Any]:
        images, targets = apply(images, targets, generator)
        if len(images) == 0:
            return images, targets
        with drawing_from(generator):
            return mixing.mixup(images, targets, mixup_alpha)

    return apply_and_mix if mixup_alpha else apply


def _placed(batch: ImageBatch, operations: Operations, flip: bool, in_mosaic: Tensor) -> ImageBatch:
    """Apply all geometric transforms, including mosaics, in one resampling per image."""
    height, width = batch.images.shape[2:]
    plain, four = (~in_mosaic).nonzero()[:, 0], in_mosaic.nonzero()[:, 0]
    parts = []
    if len(plain):
        across, down = _mirrored(operations, flip, len(plain))
        part = batch.taken(plain) if len(four) else batch
        inside = not {"shear", "scale", "rotate", "shift"}.intersection(operations.on)  # a crop has no pixels from outside the image
        if moves(operations):
            part = part.moved(
                flip_matrices(across, down) @ move_matrices(operations, len(plain), height, width), "border" if inside else "zeros"
            )
        elif across.any() or down.any():
            part = part.mirrored(across, down)
        parts.append(part)
    if len(four):
        larger = (max(1.0, operations.scale[0]), max(1.0, operations.scale[1]))  # a mosaic already shrinks images enough
        parts.append(mixing.mosaic(batch, four, partial(_matrices, replace(operations, scale=larger), flip, height, width)))
    return _in_order(parts, torch.cat([plain, four]))


def _in_order(parts: list[ImageBatch], rows: Tensor) -> ImageBatch:
    """Merge parts of a batch; ``rows`` has the index of each of their images in the result, ``(N,)``."""
    if len(parts) == 1:
        return parts[0]
    places = rows.argsort()
    starts = torch.split(rows, [len(part.images) for part in parts])
    objects = [part.objects for part in parts if part.objects is not None]
    maps = [part.maps for part in parts if part.maps is not None]
    return ImageBatch(
        torch.cat([part.images for part in parts])[places],
        joined(objects, starts, len(rows)) if objects else None,
        torch.cat(maps)[places] if maps else None,
    )


def _matrices(operations: Operations, flip: bool, height: int, width: int, count: int) -> Tensor:
    return flip_matrices(*_mirrored(operations, flip, count)) @ move_matrices(operations, count, height, width)


def _mirrored(operations: Operations, flip: bool, count: int) -> tuple[Tensor, Tensor]:
    return _chosen(0.5 * (operations.flip and flip), count), _chosen(0.5 * operations.vertical_flip, count)


def _chosen(chance: float, count: int) -> Tensor:
    return torch.rand(count) < chance
