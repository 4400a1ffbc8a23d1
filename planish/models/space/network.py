"""Networks of the search space. All activations are ReLU, which quantization to INT8 folds into the layer before it."""

from __future__ import annotations

import torch
from torch import nn

from planish.models.space.architecture import Architecture, Block, StageSpec


class SearchedBlock(nn.Module):
    """A block of a stage; see ``StageSpec``.

    Where input and output have one shape, residual and inverted blocks add their input to their output; a residual block elsewhere adds a
    1x1 convolution of its input.

    Args:
        block: kind of the block.
        width_in: input channels.
        width: output channels.
        kernel: height and width of the kernels.
        expansion: channels inside an inverted block, as a multiple of ``width_in``.
        stride: stride of the block.
    """

    def __init__(self, block: Block, width_in: int, width: int, kernel: int, expansion: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and width_in == width
        self.shortcut: nn.Module | None = nn.Identity() if same and block != "separable" else None
        self.last: nn.Module = nn.Identity() if block == "inverted" else nn.ReLU()
        if block == "residual":
            layers = [*_conv(width_in, width, kernel, stride), nn.ReLU(), *_conv(width, width, kernel)]
            if not same:
                self.shortcut = nn.Sequential(*_conv(width_in, width, 1, stride))
        elif block == "separable":
            layers = [*_conv(width_in, width_in, kernel, stride, width_in), nn.ReLU(), *_conv(width_in, width, 1)]
        else:
            inside = expansion * width_in
            layers = [
                *_conv(width_in, inside, 1), nn.ReLU(), *_conv(inside, inside, kernel, stride, inside), nn.ReLU(), *_conv(inside, width, 1),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layers(x)
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return self.last(out)  # type: ignore[no-any-return]


class SearchedNetwork(nn.Module):
    """The network that an ``Architecture`` describes, He-initialised from torch's global random state.

    Args:
        architecture: what it is made of.
        num_classes: number of classes.
        channels: number of input channels.
    """

    def __init__(self, architecture: Architecture, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = stem(architecture.stem_width, architecture.stem_stride, channels)
        width, stages = architecture.stem_width, []
        for spec in architecture.stages:
            stages.append(nn.Sequential(*blocks(spec, width)))
            width = spec.width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stages(self.stem(x))).flatten(1))  # type: ignore[no-any-return]


def searched(name: str, num_classes: int, channels: int) -> SearchedNetwork:
    """Build a searched network by name.

    Raises:
        ModelError: the name describes no network.
    """
    return SearchedNetwork(Architecture.named(name), num_classes, channels)


def stem(width: int, stride: int, channels: int) -> nn.Sequential:
    """Build the first convolution of a network."""
    return nn.Sequential(*_conv(channels, width, 3, stride), nn.ReLU())


def blocks(spec: StageSpec, width_in: int) -> list[SearchedBlock]:
    """Build the blocks of a stage."""
    before = [(width_in, spec.stride), *((spec.width, 1) for _ in range(spec.depth - 1))]
    return [SearchedBlock(spec.block, width, spec.width, spec.kernel, spec.expansion, stride) for width, stride in before]


def _conv(width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(width)
