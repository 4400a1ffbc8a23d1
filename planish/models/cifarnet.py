"""A built-in network for small images that learns much in few epochs."""

from __future__ import annotations

import re

import torch
from torch import nn

_NAME = re.compile(r"cifarnet(?:x(\d+(?:\.\d+)?))?")
_MAX_WIDTH_FACTOR = 8  # cifarnetx8 has 125 million parameters
_LOGIT_SCALE = 1 / 9


class _Block(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and GELU; the first is followed by pooling.

    Both start as the identity on the channels they have in common with their input.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU(),
        )  # fmt: skip
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight.data[: layer.in_channels])
            elif isinstance(layer, nn.BatchNorm2d):
                layer.weight.requires_grad_(False)


class CifarNet(nn.Module):
    """A 2x2 convolution and three blocks of two 3x3 convolutions with 64, 256 and 256 channels (times ``width``).

    The network of airbench94 (Jordan 2024, arXiv:2404.00498), made for short trainings with the recipe ``scratch-fast``, which whitens the
    first layer. Any image size of at least 9 works.

    Args:
        width: multiplier of the channels of every block.
        num_classes: number of classes.
        channels: number of input channels.
    """

    def __init__(self, width: float, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = [max(1, round(w * width)) for w in (64, 256, 256)]
        stem = 2 * 4 * channels  # both signs of each direction in a 2x2 patch
        self.conv1 = nn.Conv2d(channels, stem, 2)
        self.act1 = nn.GELU()
        self.blocks = nn.Sequential(*(_Block(before, after) for before, after in zip((stem, *widths[:-1]), widths, strict=True)))
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.blocks(self.act1(self.conv1(x)))
        return self.fc(self.pool(out).flatten(1)) * _LOGIT_SCALE  # type: ignore[no-any-return]


def is_cifarnet(name: str) -> bool:
    """Whether the name is ``cifarnet``, with or without a width factor up to 8: ``cifarnetx0.5``."""
    match = _NAME.fullmatch(name)
    return bool(match and 0 < float(match[1] or 1) <= _MAX_WIDTH_FACTOR)


def cifarnet(name: str, num_classes: int, channels: int) -> CifarNet:
    """Build the network by name, initialised from torch's global random state.

    Raises:
        ValueError: the name is another one.
    """
    match = _NAME.fullmatch(name)
    if match is None or not is_cifarnet(name):
        raise ValueError(f"{name!r} is not cifarnet")
    return CifarNet(float(match[1] or 1), num_classes, channels)
