"""Random changes to training images with places in them: what moves the image moves its boxes, masks and label maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from planish.data.augmentation import Augmentation, drawing_from
from planish.data.geometry import Targets, joined, mirrored, moved, within
from planish.data.operations import Operations, changes, moves_of, to_uint8
from planish.data.warp import warp
from planish.errors import TrainingError

if TYPE_CHECKING:
    from planish.artifact import InputSpec

Apply = Callable[[Tensor, Targets, torch.Generator], tuple[Tensor, Targets]]

# ``light`` and ``standard`` for such images; TrivialAugment would move them without saying where to
_STRENGTHS = {
    "none": Operations(),
    "light": Operations(scale=(0.75, 1.4), shift=0.1, flip=True),
    "standard": Operations(
        scale=(0.6, 1.6), rotate=5, shear=2, shift=0.15, flip=True, brightness=0.3, contrast=0.3, saturation=0.4, hue=0.02
    ),
}


def augment_targets(
    spec: InputSpec, augmentation: Augmentation, flip: bool = True, *, mosaic: float = 0.0, mixup: float = 0.0, copy_paste: float = 0.0
) -> Apply:
    """A function from uint8 images ``(N, C, H, W)``, their targets (see ``planish.data.geometry``) and a generator to both, changed.

    Args:
        spec: size of the images.
        augmentation: ``none``, ``light`` (scaled, shifted, mirrored), ``standard`` (also turned a little, and other colours), or what and
            how much.
        flip: mirror left to right; False where that changes the class.
        mosaic: share of the images that are put together from four of the batch (A. Bochkovskiy et al. 2020, arXiv:2004.10934).
        mixup: share of the images that are laid half transparent over another (H. Zhang et al. 2018, arXiv:1710.09412).
        copy_paste: share of the images that get objects of another, where there are masks (G. Ghiasi et al. 2021, arXiv:2012.07177).

    Raises:
        TrainingError: RandAugment or TrivialAugment, which do not tell where they move what.
    """
    wanted = augmentation if isinstance(augmentation, Operations) else _STRENGTHS.get(augmentation)
    if wanted is None:
        raise TrainingError(f"augmentation {augmentation!r}", f"it is one of {', '.join(_STRENGTHS)}, or Operations")
    if wanted.randaugment or wanted.trivialaugment:
        raise TrainingError(
            "randaugment or trivialaugment where places in images are learned",
            "they move an image without saying where to",
            "augmentation=standard, or name operations: {rotate: 5, scale: [0.8, 1.2]}",
        )
    rest = replace(wanted, crop=(1.0, 1.0), shear=0.0, scale=(1.0, 1.0), rotate=0.0, shift=0.0, flip=False, vertical_flip=False)
    colours = changes(rest, flip, 1)
    moves = moves_of(wanted)

    def change(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        height, width = images.shape[2:]
        if isinstance(targets, list):
            if copy_paste:
                images, targets = _pasted(images, targets, torch.rand(len(images)) < copy_paste)
            if mosaic:
                images, targets = _mosaic(images, targets, torch.rand(len(images)) < mosaic)
        values = images.float()
        if moves is not None:
            matrices = moves(len(images), height, width)
            values, targets = warp(values, matrices), moved(targets, matrices, height, width)
        for wish, axis in ((wanted.flip and flip, 3), (wanted.vertical_flip, 2)):
            if wish:
                which = torch.rand(len(images)) < 0.5
                values = torch.where(which.view(-1, 1, 1, 1), values.flip(axis), values)
                targets = mirrored(targets, which, axis)
        for step in colours:
            values = step(values)
        if mixup and isinstance(targets, list):
            values, targets = _mixed(values, targets, torch.rand(len(images)) < mixup)
        return to_uint8(values), targets

    nothing = not wanted.on and not (mosaic or mixup or copy_paste)

    def apply(images: Tensor, targets: Targets, generator: torch.Generator) -> tuple[Tensor, Targets]:
        if nothing or len(images) == 0:
            return images, targets
        with drawing_from(generator):
            return change(images, targets)

    return apply


def _mosaic(images: Tensor, targets: list[dict[str, Tensor]], which: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Some images become four quarters: the image itself and three others, each half as large."""
    count, _, height, width = images.shape
    rows, columns = (height // 2, height - height // 2), (width // 2, width - width // 2)
    mixed, found = images.clone(), list(targets)
    for i in which.nonzero().flatten().tolist():
        four = [i, *torch.randint(count, (3,)).tolist()]
        parts = []
        for quarter, other in enumerate(four):
            down, across = divmod(quarter, 2)
            tall, wide = rows[down], columns[across]
            y, x = rows[0] * down, columns[0] * across
            small = functional.interpolate(images[other : other + 1].float(), (tall, wide), mode="area")
            mixed[i, :, y : y + tall, x : x + wide] = small[0].round().to(images.dtype)
            shift, scale = torch.tensor([x / width, y / height] * 2), torch.tensor([wide / width, tall / height] * 2)
            one = targets[other] | {"boxes": targets[other]["boxes"] * scale + shift}
            if "masks" in one:
                masks = torch.zeros(len(one["labels"]), height, width, dtype=torch.uint8)
                shrunk = functional.interpolate(one["masks"][None].float(), (tall, wide), mode="area")[0]
                masks[:, y : y + tall, x : x + wide] = (shrunk >= 0.5).to(torch.uint8)
                one["masks"] = masks
            area = (one["boxes"][:, 2:] - one["boxes"][:, :2]).prod(1)
            parts.append(within(one, area, height, width))
        found[i] = joined(parts)
    return mixed, found


def _mixed(images: Tensor, targets: list[dict[str, Tensor]], which: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Some images half and half with another, with the objects of both."""
    others = torch.randperm(len(images))
    mixed = torch.where(which.view(-1, 1, 1, 1), (images + images[others]) / 2, images)
    pairs = zip(targets, others.tolist(), which.tolist(), strict=True)
    return mixed, [joined([one, targets[other]]) if both else one for one, other, both in pairs]


def _pasted(images: Tensor, targets: list[dict[str, Tensor]], which: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Some images get about half of the objects of another, at the places that they had there; what they cover is cut off or goes."""
    others = torch.randperm(len(images))
    mixed, found = images.clone(), list(targets)
    for i in which.nonzero().flatten().tolist():
        donor = targets[int(others[i])]
        chosen = torch.rand(len(donor["labels"])) < 0.5
        if int(others[i]) == i or "masks" not in donor or not bool(chosen.any()):
            continue
        new = {name: values[chosen] for name, values in donor.items()}
        over = new["masks"].any(0)
        mixed[i] = torch.where(over, images[others[i]], images[i])
        own = targets[i]
        left = own["masks"] * ~over
        seen = left.flatten(1).sum(1) > 0.25 * own["masks"].flatten(1).sum(1)
        found[i] = joined([{name: values[seen] for name, values in (own | {"masks": left}).items()}, new])
    return mixed, found
