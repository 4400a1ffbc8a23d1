"""Normalization of pixels to network input, in PyTorch; exported graphs contain the same operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from planish.artifact import Normalisation, Preprocessing


class Normalise(nn.Module):
    """Layer that normalizes uint8 ``(N, H, W, C)`` pixels to float32 ``(N, C, H, W)``. The first layer of every exported graph.

    Args:
        mean: mean of each channel, on the 0..1 scale.
        std: standard deviation of each channel, on the 0..1 scale.
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
        """The layer for ``preprocessing``."""
        return cls(preprocessing.mean, preprocessing.std, preprocessing.normalisation)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize a batch. The result is contiguous because networks may call ``view`` on it."""
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype).contiguous()
        if self.normalisation != "dataset":
            return normalise_each(pixels, self.normalisation)
        return (pixels / 255 - self.mean) / self.std


def normalise_each(images: torch.Tensor, normalisation: Normalisation, least: float = 1.0) -> torch.Tensor:
    """Normalize each image by its own range (``min_max``) or by its own mean and standard deviation (``z_score``).

    Args:
        images: float, four dimensions, the first of them N.
        normalisation: ``min_max`` or ``z_score``.
        least: lower bound of the divisor, for flat images; the default is one grey level of images on the 0..255 scale.
    """
    axes = (1, 2, 3)
    if normalisation == "min_max":
        lowest = images.amin(axes, keepdim=True)
        return (images - lowest) / (images.amax(axes, keepdim=True) - lowest).clamp(min=least)
    centred = images - images.mean(axes, keepdim=True)
    return centred / (centred * centred).mean(axes, keepdim=True).sqrt().clamp(min=least)
