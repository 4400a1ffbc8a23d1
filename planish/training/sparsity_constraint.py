"""Preserving compression during training: pruned weights stay zero, and shared weights stay equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SparsityConstraint:
    """Restores zeros and equal values in the weights of convolutions and linear layers; to be called after each optimizer step.

    This is projected gradient descent: each step is followed by a projection to the nearest weights with the same pattern. Zeros become
    zero again, and weights that shared a value are set to their mean (their codebook entry is trained; the entry zero stays zero).

    Args:
        module: the compressed network, whose zeros and equal values define the pattern.
        weights: the artifact's fact ``weights``: ``dense`` (no constraint), ``sparse``, ``n:m``, ``shared`` or ``shared per channel``.
    """

    def __init__(self, module: nn.Module, weights: str) -> None:
        layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
        found = list(dict.fromkeys(layer.weight for layer in layers)) if weights != "dense" else []
        self._masks = [(weight, weight.detach() != 0) for weight in found if (weight == 0).any()]
        tied = [(weight, _ties(weight.detach(), weights == "shared per channel")) for weight in found if weights.startswith("shared")]
        self._ties = [(weight, ties, torch.bincount(ties)) for weight, ties in tied]

    @torch.no_grad()
    def __call__(self) -> None:
        """Restore the pattern."""
        for weight, ties, counts in self._ties:
            means = torch.bincount(ties, weight.flatten().double()) / counts  # in float32, a sum of a million is not exact enough
            weight.copy_(means[ties].view(weight.shape))
        for weight, mask in self._masks:
            weight.mul_(mask)


def _ties(weight: Tensor, per_channel: bool) -> Tensor:
    """Group indices of equal values, one per element of the flattened weight; groups span the tensor, or one output channel each."""
    ties: Tensor
    values, ties = torch.unique(weight.flatten(), return_inverse=True)
    if per_channel:
        channel = torch.arange(len(weight), device=weight.device).repeat_interleave(weight[0].numel())
        _, ties = torch.unique(channel * len(values) + ties, return_inverse=True)
    return ties
