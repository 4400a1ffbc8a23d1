"""A feature pyramid with a top-down and a bottom-up path.

T.-Y. Lin et al., Feature pyramid networks for object detection, 2017 (arXiv:1612.03144). S. Liu et al., Path aggregation network for
instance segmentation, 2018 (arXiv:1803.01534).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.models.heads.backbone import conv_block


class Pyramid(nn.Module):
    """Fuses a backbone's feature maps into maps with the same number of channels.

    Args:
        widths: channels of the backbone's maps, the finest first; each map has half the height and width of the one before.
        width: channels of the returned maps.
        upward: whether to add the bottom-up path (fine to coarse); segmentation, which uses only the finest map, does not need it.
    """

    def __init__(self, widths: Sequence[int], width: int, *, upward: bool = True) -> None:
        super().__init__()
        pairs = len(widths) - 1
        self.across = nn.ModuleList(conv_block(inputs, width, 1) for inputs in widths)
        self.downward = nn.ModuleList(conv_block(2 * width, width) for _ in range(pairs))
        self.shrink = nn.ModuleList(conv_block(width, width, 3, 2) for _ in range(pairs if upward else 0))
        self.upward = nn.ModuleList(conv_block(2 * width, width) for _ in range(pairs if upward else 0))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found = [across(each) for across, each in zip(self.across, maps, strict=True)]
        for i in range(len(found) - 2, -1, -1):
            larger = functional.interpolate(found[i + 1], scale_factor=2.0, mode="nearest")
            found[i] = self.downward[i](torch.cat([found[i], larger], 1))
        for i, (shrink, join) in enumerate(zip(self.shrink, self.upward, strict=True)):
            found[i + 1] = join(torch.cat([found[i + 1], shrink(found[i])], 1))
        return found
