"""Augmentation policies for training images. Validation, calibration and test images are never augmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms import v2

from planish.data.augmentation.operations import Change, Operations, changes, to_uint8
from planish.errors import TrainingError

if TYPE_CHECKING:
    from planish.artifact import InputSpec

Strength = Literal["none", "light", "standard"]
Augmentation = Strength | Operations
Augment = Callable[[Tensor, torch.Generator], Tensor]
Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]

_SMALL_SIDE = 64  # pixels; in images up to this size objects fill the image, so they are shifted rather than cropped at random size
_SMALL_CHUNK = 4  # small images that share one draw of TrivialAugment, since the call overhead exceeds the cost of their pixels


def augment(spec: InputSpec, augmentation: Augmentation, flip: bool = True) -> Augment:
    """Create the augmentation function: from uint8 images ``(N, C, H, W)`` and a random generator to augmented images of the same shape.

    ``none`` changes nothing. ``light`` pads small images by an eighth of their side and crops them back to size, or crops larger ones at
    random size (half to all of the area), and mirrors half of the images left to right. ``standard`` adds TrivialAugment
    (https://arxiv.org/abs/2103.10158): one random operation of random strength, drawn per image, or per four consecutive images if images
    are at most 64 pixels. ``Operations`` set each operation and its strength.

    Args:
        spec: size of the images.
        augmentation: a preset, or ``Operations``.
        flip: allow mirroring left to right; False if that changes the class (digits, letters, arrows), which overrides ``Operations``.

    Raises:
        TrainingError: ``augmentation`` is neither one of the three presets nor ``Operations``.

    Example:
        >>> from planish.artifact import InputSpec
        >>> change = augment(InputSpec(3, 32, 32), "light")
        >>> change(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """
    small = max(spec.height, spec.width) <= _SMALL_SIDE
    if isinstance(augmentation, Operations):
        change = _one_after_another(changes(augmentation, flip, _SMALL_CHUNK if small else 1))
    elif augmentation in get_args(Strength):
        change = _of_strength(spec, augmentation, flip, small)
    else:
        raise TrainingError(
            f"augmentation {augmentation!r}",
            f"it is one of {', '.join(get_args(Strength))}, or Operations",
            "for example Operations(rotate=15)",
        )
    nothing = augmentation in ("none", Operations())

    def apply(images: Tensor, generator: torch.Generator) -> Tensor:
        if nothing or len(images) == 0:
            return images
        with drawing_from(generator):
            return change(images)

    return apply


def _one_after_another(steps: list[Change]) -> Change:
    def change(images: Tensor) -> Tensor:
        values = images.to(torch.float32, memory_format=torch.contiguous_format)
        for step in steps:
            values = step(values)
        return to_uint8(values)

    return change


def _of_strength(spec: InputSpec, strength: Strength, flip: bool, small: bool) -> Change:
    zoom = v2.RandomResizedCrop((spec.height, spec.width), scale=(0.5, 1.0), antialias=True)
    trivial = v2.TrivialAugmentWide()

    def change(images: Tensor) -> Tensor:
        images = _shift(images) if small else torch.cat([zoom(image) for image in torch.split(images, 1)])
        if flip:
            mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
            images = torch.where(mirrored.to(images.device), images.flip(-1), images)
        if strength == "standard":
            images = torch.cat([trivial(part) for part in torch.split(images, _SMALL_CHUNK if small else 1)])
        return images

    return change


def mixup_cutmix(num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> Mix:
    """Create a function that mixes the images of a batch and their labels in pairs, by MixUp or CutMix.

    It takes float images ``(N, C, H, W)``, class indices ``(N,)`` and a random generator, and returns images and soft targets
    ``(N, num_classes)``. If both alphas are above 0, each batch gets one of the two with equal probability; if both are 0, images do not
    change and targets are one-hot.

    Papers: https://arxiv.org/abs/1710.09412, https://arxiv.org/abs/1905.04899

    Raises:
        TrainingError: an alpha is negative.
    """
    if min(mixup_alpha, cutmix_alpha) < 0:
        raise TrainingError(f"mixup_alpha={mixup_alpha}, cutmix_alpha={cutmix_alpha}", "both are at least 0, and 0 is off")
    mixes: list[v2.Transform] = []
    if mixup_alpha > 0:
        mixes.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_classes))
    if cutmix_alpha > 0:
        mixes.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_classes))

    def apply(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if not mixes:
            return images, torch.nn.functional.one_hot(targets, num_classes).to(images.dtype)
        with drawing_from(generator):
            mix = mixes[int(torch.randint(len(mixes), ()))]
            mixed, soft = mix(images, targets)
        return mixed, soft

    return apply


def _shift(images: Tensor) -> Tensor:
    """Pad with black and crop each image at a random position, vectorized because one call per image would cost more than the pixels."""
    count, _, height, width = images.shape
    y, x = max(1, height // 8), max(1, width // 8)
    padded = torch.nn.functional.pad(images, (x, x, y, y)).permute(0, 2, 3, 1)
    rows = torch.randint(2 * y + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * x + 1, (count, 1)) + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Seed PyTorch's global CPU generator, which torchvision uses, from ``generator`` within this block, and restore it afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    try:
        yield
    finally:
        torch.set_rng_state(state)
