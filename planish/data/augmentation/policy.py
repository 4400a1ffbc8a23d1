"""Random changes to training images. Validation, calibration and test images are never augmented."""

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

_SMALL_SIDE = 64  # up to here objects fill the image: shift it, do not zoom into it
_SMALL_CHUNK = 4  # small images that share one draw of TrivialAugment; a call costs more than its pixels there


def augment(spec: InputSpec, augmentation: Augmentation, flip: bool = True) -> Augment:
    """A function from uint8 images ``(N, C, H, W)`` and a generator to augmented ones of the same shape.

    ``none`` changes nothing. ``light`` pads and crops small images by an eighth of their side and crops larger ones at random size (half to
    all of the area); both are mirrored. ``standard`` adds TrivialAugment (https://arxiv.org/abs/2103.10158): one random
    operation of random strength, on each image, or on each four in a row where images are at most 64 pixels. ``Operations`` name
    each change and its strength.

    Args:
        spec: size of the images.
        augmentation: how much, or what and how much.
        flip: mirror left to right; False where that changes the class (digits, letters, arrows), whatever ``Operations`` say.

    Raises:
        TrainingError: ``augmentation`` is neither one of the three nor ``Operations``.

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
    """A function that mixes the images of a batch in pairs, by MixUp or CutMix, and their labels with them.

    It takes float images ``(N, C, H, W)``, class indices ``(N,)`` and a generator, and returns images and soft targets
    ``(N, num_classes)``.
    With both alphas above 0 each batch gets one of the two, evenly; with both 0 only the labels change, to one-hot.

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
    """Pad with black and crop, each image elsewhere. All at once: a call an image would cost more than the pixels."""
    count, _, height, width = images.shape
    y, x = max(1, height // 8), max(1, width // 8)
    padded = torch.nn.functional.pad(images, (x, x, y, y)).permute(0, 2, 3, 1)
    rows = torch.randint(2 * y + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * x + 1, (count, 1)) + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let torchvision, which knows only the global CPU generator, draw from this one, and leave the global one as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    try:
        yield
    finally:
        torch.set_rng_state(state)
