"""What a searched network is made of, and its name, from which the network is built again."""

from __future__ import annotations

import re
from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from planish.errors import ModelError

Block = Literal["residual", "separable", "inverted"]

PREFIX = "searched:"
_STRICT = ConfigDict(extra="forbid")
_LETTERS: dict[Block, str] = {"residual": "r", "separable": "d", "inverted": "i"}
_BLOCKS = {letter: block for block, letter in _LETTERS.items()}
_STEM = re.compile(r"c(\d+)s(\d)")
_STAGE = re.compile(r"([rdi])(\d+)n(\d+)k(\d)(?:e(\d))?s(\d)")
_EXAMPLE = "searched:c16s1-r16n1k3s1-d64n2k5s2-i64n2k3e4s2"

Width = Annotated[int, Field(ge=1, le=512)]
Stride = Annotated[int, Field(ge=1, le=2)]


@dataclass(frozen=True, config=_STRICT)
class StageSpec:
    """Blocks of one kind and width, one after the other; the first one has the stride.

    Args:
        block: ``residual``: two convolutions with a shortcut around them (He et al. 2015, arXiv:1512.03385). ``separable``: a depthwise and
            a 1x1 convolution (MobileNet, Howard et al. 2017, arXiv:1704.04861). ``inverted``: a 1x1 convolution to more channels, a
            depthwise one, and a 1x1 convolution back (MobileNetV2, Sandler et al. 2018, arXiv:1801.04381).
        width: output channels.
        depth: number of blocks.
        kernel: height and width of the kernels, 3 or 5.
        expansion: channels inside an inverted block, as a multiple of its input channels; 1 for the other blocks.
        stride: stride of the first block.
    """

    block: Block
    width: Width
    depth: Annotated[int, Field(ge=1, le=8)]
    kernel: Literal[3, 5] = 3
    expansion: Annotated[int, Field(ge=1, le=6)] = 1
    stride: Stride = 1

    def __str__(self) -> str:
        expansion = f"e{self.expansion}" if self.block == "inverted" else ""
        return f"{_LETTERS[self.block]}{self.width}n{self.depth}k{self.kernel}{expansion}s{self.stride}"


@dataclass(frozen=True, config=_STRICT)
class Architecture:
    """A convolutional network: a 3x3 convolution, stages, global average pooling and a linear classifier, with ReLU.

    Args:
        stem_width: output channels of the first convolution.
        stem_stride: its stride.
        stages: from the input to the classifier.

    Example:
        >>> found = Architecture(16, 1, (StageSpec("residual", 32, 2, stride=2), StageSpec("inverted", 64, 1, 5, 4, 2)))
        >>> found.name
        'searched:c16s1-r32n2k3s2-i64n1k5e4s2'
        >>> Architecture.named(found.name) == found
        True
    """

    stem_width: Width
    stem_stride: Stride
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1, max_length=6)]

    @property
    def name(self) -> str:
        """The name of the network, as ``planish train --model`` takes it."""
        return PREFIX + "-".join((f"c{self.stem_width}s{self.stem_stride}", *map(str, self.stages)))

    @classmethod
    def named(cls, name: str) -> Architecture:
        """Return the architecture with this name.

        Raises:
            ModelError: the name describes no network.
        """
        first, *others = name.removeprefix(PREFIX).split("-")
        stem, stages = _STEM.fullmatch(first), [_STAGE.fullmatch(each) for each in others]
        if name.startswith(PREFIX) and stem is not None and None not in stages:
            try:
                found = cls(int(stem[1]), int(stem[2]), tuple(_stage(each) for each in stages if each is not None))
            except ValidationError as error:
                one = error.errors()[0]
                what = next((str(part) for part in reversed(one["loc"]) if isinstance(part, str)), "stages")
                raise ModelError(f"{name!r} describes no network: {what}: {one['msg']}", f"such a name is like {_EXAMPLE}") from None
            if found.name == name:
                return found
        raise ModelError(
            f"{name!r} describes no network",
            "a searched network is named by its first convolution (c, channels, s, stride) and its stages (r, d or i for the block, "
            "channels, n blocks, k kernel, e expansion of i, s stride)",
            f"for example {_EXAMPLE}",
        )


def is_searched(name: str) -> bool:
    """Whether this is the name of a searched network, valid or not."""
    return name.startswith(PREFIX)


def _stage(found: re.Match[str]) -> StageSpec:
    letter, width, depth, kernel, expansion, stride = found.groups()
    return StageSpec(_BLOCKS[letter], int(width), int(depth), cast(Literal[3, 5], int(kernel)), int(expansion or 1), int(stride))
