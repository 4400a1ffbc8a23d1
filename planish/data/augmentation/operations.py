"""Augmentation operations, configured by name and strength; implemented in ``warp`` and ``pixels``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision.transforms import v2

from planish.data.augmentation import pixels
from planish.data.augmentation.warp import affine_matrices, crop_matrices, random_boxes, warp

Change = Callable[[Tensor], Tensor]

_MOVES = {"crop", "rotate", "scale", "shear", "shift"}  # applied together in one resampling
_TRANSPORTS = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}  # geometric operations, by torchvision's names
_CROP_STRETCH = 4 / 3
_ERASE_STRETCH = 10 / 3


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the first is the least, the second the most")
    return pair


Factor = Annotated[float, Field(strict=True, ge=0.1, le=10)]
AreaShare = Annotated[float, Field(strict=True, gt=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Operations:
    """Random augmentation operations, by name. Operations that are omitted, 0 or False are not applied.

    A single number is the maximum: each image gets its own value, uniform between minus that and plus that, or from 0 for quantities that
    cannot be negative; a pair is the minimum and the maximum. Operations are applied in the order listed, each result is clipped to
    0..255, and the final one is rounded. Crop, shear, scale, rotation and shift are one resampling; pixels from outside are black.

    Args:
        crop: fraction of the area that is cropped and resized to the whole image; the aspect ratio changes by up to a third.
        shear: maximum horizontal shear angle in degrees.
        scale: scale factor, above 1 enlarges.
        rotate: maximum rotation angle in degrees.
        shift: maximum translation as a fraction of the side, horizontally and vertically.
        flip: mirror each image left to right with probability 0.5.
        vertical_flip: mirror each image upside down with probability 0.5.
        brightness: 0.2 for a factor of 0.8 to 1.2.
        contrast: 0.2 for a factor of 0.8 to 1.2 of the difference from the mean grey of the image.
        saturation: 0.2 for a factor of 0.8 to 1.2 of the HSV saturation; no effect on grey images.
        hue: maximum hue shift in turns of the colour circle, 0.5 for any hue; no effect on grey images.
        randaugment: magnitude of two random operations (Cubuk et al. 2019, arXiv:1909.13719), 1 to 30, usually 9; drawn per image, or per
            four consecutive images if images are at most 64 pixels.
        trivialaugment: one random operation of random strength (Müller and Hutter 2021, arXiv:2103.10158), drawn likewise.
        blur: maximum sigma of a Gaussian blur, in pixels.
        noise: maximum standard deviation of Gaussian noise, in grey levels of 255.
        erase: maximum fraction of the area that is filled with random values.

    Example:
        >>> Operations(rotate=15, scale=(0.8, 1.2), flip=True).on
        ('scale', 'rotate', 'flip')
    """

    crop: Annotated[tuple[AreaShare, AreaShare], AfterValidator(_rising)] = (1.0, 1.0)
    shear: Annotated[float, Field(strict=True, ge=0, le=60)] = 0.0
    scale: Annotated[tuple[Factor, Factor], AfterValidator(_rising)] = (1.0, 1.0)
    rotate: Annotated[float, Field(strict=True, ge=0, le=180)] = 0.0
    shift: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0
    flip: Annotated[bool, Field(strict=True)] = False
    vertical_flip: Annotated[bool, Field(strict=True)] = False
    brightness: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    contrast: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    saturation: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.0
    hue: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0
    randaugment: Annotated[int, Field(strict=True, ge=0, le=30)] = 0
    trivialaugment: Annotated[bool, Field(strict=True)] = False
    blur: Annotated[float, Field(strict=True, ge=0, le=10)] = 0.0
    noise: Annotated[float, Field(strict=True, ge=0, le=255)] = 0.0
    erase: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0

    @property
    def on(self) -> tuple[str, ...]:
        """Names of the operations that are applied, in order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.on}


def changes(operations: Operations, flip: bool, together: int) -> list[Change]:
    """The functions to apply in order to a batch of float images ``(N, C, H, W)`` on the 0..255 scale; they use PyTorch's global generator.

    Args:
        operations: operations and their strengths.
        flip: False disables mirroring left to right.
        together: number of consecutive images that share one draw of RandAugment or TrivialAugment.
    """
    o = operations
    steps: list[tuple[bool, Change]] = [
        (moves(o), partial(_moved, o)),
        (o.flip and flip, partial(_mirrored, axis=3)),
        (o.vertical_flip, partial(_mirrored, axis=2)),
    ]
    return [change for wanted, change in steps if wanted] + pixel_changes(o, together)


def moves(operations: Operations) -> bool:
    """Whether operations include a geometric transform that resamples images (flips do not)."""
    return not _MOVES.isdisjoint(operations.on)


def pixel_changes(operations: Operations, together: int, in_place: bool = False) -> list[Change]:
    """The functions of ``changes`` that follow the flips: colour, RandAugment, TrivialAugment, blur, noise and erasing.

    Args:
        operations: operations and their strengths.
        together: see ``changes``.
        in_place: exclude shear, translation and rotation from RandAugment and TrivialAugment, so that objects do not move.
    """
    o = operations
    randaugment, trivialaugment = (_StillRandAugment, _StillTrivialAugment) if in_place else (v2.RandAugment, v2.TrivialAugmentWide)
    steps: list[tuple[bool, Change]] = [
        (o.brightness > 0, _each(pixels.brighten, 1 - o.brightness, 1 + o.brightness)),
        (o.contrast > 0, _each(pixels.adjust_contrast, 1 - o.contrast, 1 + o.contrast)),
        (o.saturation > 0, _each(pixels.saturate, 1 - o.saturation, 1 + o.saturation)),
        (o.hue > 0, _each(pixels.turn_hue, -o.hue, o.hue)),
        (o.randaugment > 0, partial(_in_groups, randaugment(magnitude=o.randaugment), together)),
        (o.trivialaugment, partial(_in_groups, trivialaugment(), together)),
        (o.blur > 0, _each(pixels.blur, 0, o.blur)),
        (o.noise > 0, _each(pixels.add_noise, 0, o.noise)),
        (o.erase > 0, lambda images: pixels.erase(images, random_boxes(len(images), 0, o.erase, _ERASE_STRETCH))),
    ]
    return [change for wanted, change in steps if wanted]


class _StillRandAugment(v2.RandAugment):  # type: ignore[misc]
    _AUGMENTATION_SPACE: ClassVar[dict[str, Any]] = {k: v for k, v in v2.RandAugment._AUGMENTATION_SPACE.items() if k not in _TRANSPORTS}


class _StillTrivialAugment(v2.TrivialAugmentWide):  # type: ignore[misc]
    _AUGMENTATION_SPACE: ClassVar[dict[str, Any]] = {
        k: v for k, v in v2.TrivialAugmentWide._AUGMENTATION_SPACE.items() if k not in _TRANSPORTS
    }


def to_uint8(images: Tensor) -> Tensor:
    """Round, clip to 0..255 and convert to uint8."""
    return images.round().clamp_(0, 255).to(torch.uint8)


def move_matrices(operations: Operations, count: int, height: int, width: int) -> Tensor:
    """Matrices of a random crop, shear, scale, rotation and shift per image, ``(count, 3, 3)``; uses PyTorch's global random generator."""
    o = operations
    cut = crop_matrices(random_boxes(count, *o.crop, _CROP_STRETCH), height, width)
    degrees, factor, shear = (torch.empty(count).uniform_(*ends) for ends in ((-o.rotate, o.rotate), o.scale, (-o.shear, o.shear)))
    shift = torch.empty(count, 2).uniform_(-o.shift, o.shift) * torch.tensor([width, height])
    return affine_matrices(degrees, factor, shear, shift) @ cut


def _moved(operations: Operations, images: Tensor) -> Tensor:
    alone = _MOVES.intersection(operations.on) == {"crop"}  # a crop has no pixels from outside the image
    return warp(images, move_matrices(operations, len(images), *images.shape[2:]), "border" if alone else "zeros")


def _mirrored(images: Tensor, axis: int) -> Tensor:
    return torch.where((torch.rand(len(images), 1, 1, 1) < 0.5).to(images.device), images.flip(axis), images)


def _each(change: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> Change:
    return lambda images: change(images, torch.empty(len(images), 1, 1, 1).uniform_(low, high).to(images))


def _in_groups(transform: v2.Transform, together: int, images: Tensor) -> Tensor:
    return torch.cat([transform(part) for part in torch.split(to_uint8(images), together)]).float()
