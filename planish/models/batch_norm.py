"""Batch-norm statistics that fit a network which was changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

LEAST_MOMENTUM = 0.1


def reestimate_batch_norm(module: nn.Module, batches: Iterable[Tensor], run: Callable[[Tensor], object] | None = None) -> None:
    """Replace batch-norm statistics by their average over ``batches``; all modes and settings are left as they were.

    Args:
        module: changed in place.
        batches: normalised images ``(N, C, H, W)``.
        run: runs the network on a batch, where it need not be run to its end.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum, norm.training = None, True  # cumulative average
        with torch.no_grad():
            for images in batches:
                if len(images) > 1:
                    (run or module)(images)
    finally:
        for norm, _, momentum in before:
            norm.momentum = momentum
        for child, training in modes:
            child.training = training


def raise_momentum(module: nn.Module) -> None:
    """Let running statistics follow as quickly as torch's own do, at least; changed in place.

    Networks that were made for hundreds of thousands of steps have a momentum of 0.01 (torchvision's MobileNetV3): in a training of some
    hundreds their statistics are those of weights that are long gone, and what was learned does not show.
    """
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.momentum is not None:
            norm.momentum = max(norm.momentum, LEAST_MOMENTUM)
