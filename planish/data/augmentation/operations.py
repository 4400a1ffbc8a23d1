"""Single augmentations by name and strength. How they are done is in ``warp`` and ``pixels``."""

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

_MOVES = {"crop", "rotate", "scale", "shear", "shift"}  # one resampling does them all
_TRANSPORTS = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}  # torchvision's names
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
    """Random changes to training images, by name. What is left out is not done, and neither is what is 0 or False.

    A single number is the most: every image gets its own, drawn evenly between minus that and that, or from 0 where below nothing has no
    meaning; a pair is the least and the most. They are done in the order in which they are listed, each result is clipped to
    0..255, and rounded at the end. Crop, rotation, scale, shear and shift are one resampling; what it brings in from outside is black.

    Args:
        crop: share of the area that is cut out and enlarged to the whole; sides stretched by up to a third.
        shear: degrees by which columns lean.
        scale: factor, above 1 enlarges.
        rotate: degrees.
        shift: share of the side, in both directions.
        flip: mirror every other image left to right.
        vertical_flip: mirror every other image upside down.
        brightness: 0.2 for a factor of 0.8 to 1.2.
        contrast: the same, of the distance from the image's mean.
        saturation: the same, of the saturation in HSV; grey images have none.
        hue: turns of the colour circle, 0.5 for any colour; grey images have none.
        randaugment: magnitude of two random operations (Cubuk et al. 2019, arXiv:1909.13719), 1 to 30, usually 9; on each image, or on each
            four in a row where images are at most 64 pixels.
        trivialaugment: one random operation of random strength (Müller and Hutter 2021, arXiv:2103.10158), likewise.
        blur: sigma of a Gaussian in pixels.
        noise: sigma of normal noise in grey levels, of 255.
        erase: share of the area that is filled with random values.

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
        """Names of those that are done, in order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.on}


def changes(operations: Operations, flip: bool, together: int) -> list[Change]:
    """What is done to a batch of float images ``(N, C, H, W)`` on the scale 0..255, in order. They draw from torch's global generator.

    Args:
        operations: names and strengths.
        flip: False forbids mirroring left to right.
        together: images in a row that share one draw of RandAugment or TrivialAugment.
    """
    o = operations
    steps: list[tuple[bool, Change]] = [
        (moves(o), partial(_moved, o)),
        (o.flip and flip, partial(_mirrored, axis=3)),
        (o.vertical_flip, partial(_mirrored, axis=2)),
    ]
    return [change for wanted, change in steps if wanted] + pixel_changes(o, together)


def moves(operations: Operations) -> bool:
    """Whether images are resampled."""
    return not _MOVES.isdisjoint(operations.on)


def pixel_changes(operations: Operations, together: int, in_place: bool = False) -> list[Change]:
    """Those of ``changes`` that come after flips: of colours, and nothing that moves where ``in_place``.

    Args:
        operations: names and strengths.
        together: see ``changes``.
        in_place: RandAugment and TrivialAugment, too, leave every object where it is: without shear, translation and rotation.
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
    """Round, and clip to 0..255."""
    return images.round().clamp_(0, 255).to(torch.uint8)


def move_matrices(operations: Operations, count: int, height: int, width: int) -> Tensor:
    """A random crop, shear, scaling, rotation and shift an image, ``(count, 3, 3)``; drawn from torch's global generator."""
    o = operations
    cut = crop_matrices(random_boxes(count, *o.crop, _CROP_STRETCH), height, width)
    degrees, factor, shear = (torch.empty(count).uniform_(*ends) for ends in ((-o.rotate, o.rotate), o.scale, (-o.shear, o.shear)))
    shift = torch.empty(count, 2).uniform_(-o.shift, o.shift) * torch.tensor([width, height])
    return affine_matrices(degrees, factor, shear, shift) @ cut


def _moved(operations: Operations, images: Tensor) -> Tensor:
    alone = _MOVES.intersection(operations.on) == {"crop"}  # which brings in nothing from outside
    return warp(images, move_matrices(operations, len(images), *images.shape[2:]), "border" if alone else "zeros")


def _mirrored(images: Tensor, axis: int) -> Tensor:
    return torch.where((torch.rand(len(images), 1, 1, 1) < 0.5).to(images.device), images.flip(axis), images)


def _each(change: Callable[[Tensor, Tensor], Tensor], low: float, high: float) -> Change:
    return lambda images: change(images, torch.empty(len(images), 1, 1, 1).uniform_(low, high).to(images))


def _in_groups(transform: v2.Transform, together: int, images: Tensor) -> Tensor:
    return torch.cat([transform(part) for part in torch.split(to_uint8(images), together)]).float()
