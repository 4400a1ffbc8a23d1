"""Built-in networks for small images: the CIFAR-10 networks of He et al., with and without shortcuts."""

from __future__ import annotations

import re

import torch
from torch import nn

DEPTHS = (8, 14, 20, 32, 44, 56)
NAMES = tuple(f"{kind}{depth}" for kind in ("resnet", "plain") for depth in DEPTHS)
_NAME = re.compile(r"(resnet|plain)(\d+)(?:x(\d+(?:\.\d+)?))?")
_MAX_WIDTH_FACTOR = 32  # resnet56x32 has 871 million parameters


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them; a 1x1 convolution projects the shortcut where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class PlainBlock(nn.Sequential):
    """Two 3x3 convolutions without a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip


class ResNet(nn.Module):
    """Three stages of basic blocks with 16, 32 and 64 channels (times ``width``), He et al. 2015 (arXiv:1512.03385), section 4.2.

    Unlike in the paper, a shortcut is a projection where the shape changes (the paper's option B), so that every addition adds outputs of
    convolutions. Any image size of at least 4 works; the stages run at full, half and quarter resolution.

    Args:
        depth: number of layers, ``6 n + 2``.
        block: ``BasicBlock``, or ``PlainBlock`` for the paper's plain network.
        width: multiplier of the channels of every stage.
        num_classes: number of classes.
        channels: number of input channels.
    """

    def __init__(self, depth: int, block: type[nn.Module], width: float, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = [max(1, round(w * width)) for w in (16, 32, 64)]
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages, width_in = [], widths[0]
        for number, stage_width in enumerate(widths):
            blocks = []
            for index in range((depth - 2) // 6):
                blocks.append(block(width_in, stage_width, stride=2 if number and not index else 1))
                width_in = stage_width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width_in, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.pool(self.stages(out)).flatten(1))  # type: ignore[no-any-return]


def is_ours(name: str) -> bool:
    """Whether the name is one of ``NAMES``, with or without a width factor up to 32: ``resnet20``, ``resnet14x2``, ``plain8x0.5``."""
    match = _NAME.fullmatch(name)
    return bool(match and int(match[2]) in DEPTHS and 0 < float(match[3] or 1) <= _MAX_WIDTH_FACTOR)


def resnet(name: str, num_classes: int, channels: int) -> ResNet:
    """Build a network of this package by name, He-initialised from torch's global random state.

    Raises:
        ValueError: the name is not one of ``NAMES``.
    """
    match = _NAME.fullmatch(name)
    if match is None or not is_ours(name):
        raise ValueError(f"{name!r} is not one of ours")
    return ResNet(int(match[2]), BasicBlock if match[1] == "resnet" else PlainBlock, float(match[3] or 1), num_classes, channels)
