"""Random networks of the search space for an input size."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import cast, get_args

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.models.space.architecture import Architecture, Block, StageSpec

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_STEM_WIDTHS = 4  # the first convolution has one of the first widths
_LAST_MAP = 7.5  # pixels per side of the last feature maps, about
_FULL_STEM = 3  # up to so many halvings of the resolution, the first convolution may keep it
_MOST_HALVINGS = 6
_DEPTHS, _KERNELS, _EXPANSIONS = (1, 2, 3, 4), (3, 5), (2, 4)
_WIDEST = ((64, 32), (32, 64), (16, 128))  # pixels per side of maps from which on the width is limited, and the limit
_UNIFORM = 0.5  # share of networks whose stages all have the same block
_SMALLER = 0.75  # of the input size, for the second resolution


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SampledNetwork:
    """A network of the search space with its input size in pixels."""

    architecture: Architecture
    image_size: int

    @property
    def key(self) -> str:
        """Name and input size: ``searched:c16s1-r16n1k3s1@28``."""
        return f"{self.architecture.name}@{self.image_size}"

    @property
    def family(self) -> tuple[object, ...]:
        """What networks have in common that differ in widths and depths only."""
        found = self.architecture
        return self.image_size, found.stem_stride, tuple((stage.block, stage.stride) for stage in found.stages)


def resolutions(image_size: int) -> tuple[int, ...]:
    """Return the input sizes that are searched: the given one, and one with about half as many pixels.

    Example:
        >>> resolutions(28), resolutions(224)
        ((28, 20), (224, 160))
    """
    step = 4 if image_size <= 48 else 8 if image_size <= 128 else 32
    smaller = round(_SMALLER * image_size / step) * step
    return (image_size, smaller) if 12 <= smaller < image_size else (image_size,)


def halvings(image_size: int) -> int:
    """Return how often a network for this input size halves the resolution.

    Example:
        >>> halvings(28), halvings(64), halvings(224)
        (2, 3, 5)
    """
    return min(_MOST_HALVINGS, max(1, round(math.log2(image_size / _LAST_MAP))))


def sampled(image_size: int, sizes: Sequence[int], count: int, seed: int) -> list[SampledNetwork]:
    """Draw different networks.

    Args:
        image_size: input size in pixels that the strides are made for.
        sizes: input sizes to draw from.
        count: number of networks.
        seed: equal seeds give equal networks.
    """
    draw, found = random.Random(seed), dict[str, SampledNetwork]()
    while len(found) < count:
        network = SampledNetwork(_architecture(image_size, draw), draw.choice(list(sizes)))
        found[network.key] = network
    return list(found.values())


def _architecture(image_size: int, draw: random.Random) -> Architecture:
    left = halvings(image_size)
    stem_stride = draw.choice((1, 2)) if left <= _FULL_STEM else 2
    left -= stem_stride == 2
    strides = [*([1] * (left < 2 or draw.random() < 0.5)), *([2] * left)][:_MOST_HALVINGS]
    blocks = cast("tuple[Block, ...]", get_args(Block))
    common = draw.choice(blocks) if draw.random() < _UNIFORM else None
    place, side = draw.randrange(_STEM_WIDTHS), image_size / stem_stride
    stem_width, stages = WIDTHS[place], []
    for stride in strides:
        side /= stride
        place = min(place + draw.choice((0, 1, 2) if stride == 2 else (0, 1)), WIDTHS.index(_widest(side)))
        block = common or draw.choice(blocks)
        kernel = 3 if block == "residual" else draw.choice(_KERNELS)
        expansion = draw.choice(_EXPANSIONS) if block == "inverted" else 1
        stages.append(StageSpec(block, WIDTHS[place], draw.choice(_DEPTHS), kernel, expansion, stride))  # type: ignore[arg-type]
    return Architecture(stem_width, stem_stride, tuple(stages))


def _widest(side: float) -> int:
    return next((width for least, width in _WIDEST if side >= least), WIDTHS[-1])
