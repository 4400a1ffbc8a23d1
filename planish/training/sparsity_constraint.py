"""What training keeps of what compression made: pruned weights stay zero, and weights that share a value go on sharing one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SparsityConstraint:
    """Called after each step of the optimizer, puts the weights of convolutions and linear layers back into their pattern.

    A step followed by the nearest weights of the pattern is projected gradient descent: zeros become zero again, and weights that shared a
    value take the mean of what they have become (their codebook entry is trained; entry zero stays).

    Args:
        module: as compression left it; its zeros and equal values are the pattern.
        weights: the artifact's fact: ``dense`` (nothing is kept), ``sparse``, ``n:m``, ``shared`` or ``shared per channel``.
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
    """For each weight, flat, the number of its class of equal ones, within the tensor or within its output channel."""
    ties: Tensor
    values, ties = torch.unique(weight.flatten(), return_inverse=True)
    if per_channel:
        channel = torch.arange(len(weight), device=weight.device).repeat_interleave(weight[0].numel())
        _, ties = torch.unique(channel * len(values) + ties, return_inverse=True)
    return ties
