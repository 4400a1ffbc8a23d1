"""From pixels to what a network takes, in torch; exported files have the same in their graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from planish.artifact import Normalisation, Preprocessing


class Normalise(nn.Module):
    """From pixels to what a network takes, uint8 ``(N, H, W, C)`` to float32 ``(N, C, H, W)``. The first layer of every exported graph.

    Args:
        mean: one value per channel, on the 0..1 scale.
        std: likewise.
        normalisation: see ``Preprocessing``.

    Example:
        >>> layer = Normalise(mean=(0.5,), std=(0.25,))
        >>> layer(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8)).unique()
        tensor([2.])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], normalisation: Normalisation = "dataset") -> None:
        super().__init__()
        self.normalisation = normalisation
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Normalise:
        """The one that ``preprocessing`` describes."""
        return cls(preprocessing.mean, preprocessing.std, preprocessing.normalisation)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise one batch. What is returned is contiguous: networks may ``view`` their maps as rows."""
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype).contiguous()
        if self.normalisation != "dataset":
            return normalise_each(pixels, self.normalisation)
        return (pixels / 255 - self.mean) / self.std


def normalise_each(images: torch.Tensor, normalisation: Normalisation, least: float = 1.0) -> torch.Tensor:
    """``min_max`` or ``z_score`` of each image.

    Args:
        images: float, four axes, the first of them N.
        normalisation: not ``dataset``.
        least: what is divided by where an image is flatter than that; one grey level for images on the scale 0..255.
    """
    axes = (1, 2, 3)
    if normalisation == "min_max":
        lowest = images.amin(axes, keepdim=True)
        return (images - lowest) / (images.amax(axes, keepdim=True) - lowest).clamp(min=least)
    centred = images - images.mean(axes, keepdim=True)
    return centred / (centred * centred).mean(axes, keepdim=True).sqrt().clamp(min=least)
