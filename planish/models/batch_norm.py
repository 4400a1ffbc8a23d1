"""Re-estimation of batch-norm statistics after a network was changed, and their momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

LEAST_MOMENTUM = 0.1


def reestimate_batch_norm(module: nn.Module, batches: Iterable[Tensor], run: Callable[[Tensor], object] | None = None) -> None:
    """Replace batch-norm statistics by their average over ``batches``; train/eval modes and momentum are restored afterwards. Layers that
    do not run keep their statistics; so do all layers if no batch has two images.

    Args:
        module: the network, changed in place.
        batches: normalised images ``(N, C, H, W)``; batches of a single image are skipped.
        run: called with each batch in place of ``module``, for example to run only part of the network.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    before = [(norm, norm.momentum, {name: value.clone() for name, value in norm.named_buffers(recurse=False)}) for norm in norms]
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
        for norm, momentum, statistics in before:
            norm.momentum = momentum
            if norm.num_batches_tracked == 0:
                for name, value in statistics.items():
                    getattr(norm, name).copy_(value)
        for child, training in modes:
            child.training = training


def raise_momentum(module: nn.Module) -> None:
    """Raise the momentum of all batch-norm layers to at least 0.1, PyTorch's default; changed in place.

    Networks designed for hundreds of thousands of training steps use a momentum of 0.01 (torchvision's MobileNetV3). In a training of some
    hundred steps, their running statistics would lag behind the weights, and validation would not show what was learned.
    """
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.momentum is not None:
            norm.momentum = max(norm.momentum, LEAST_MOMENTUM)
