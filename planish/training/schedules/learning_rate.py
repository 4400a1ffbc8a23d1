"""Learning-rate schedule."""

from __future__ import annotations

import math


def learning_rate(progress: float, highest: float, warmup: float, cycles: int = 1, constant_from: float = 1.0) -> float:
    """The learning rate: linear warm-up from 0 to ``highest``, then cosine annealing to 0 in one or more cycles.

    Args:
        progress: progress of the training, 0 to 1.
        highest: peak learning rate.
        warmup: share of the training for warm-up, below 1.
        cycles: number of cosine cycles of equal length, each from ``highest`` to 0.
        constant_from: progress after which the learning rate is held constant.
    """
    progress = min(progress, constant_from)
    if progress < warmup:
        return highest * progress / warmup
    done = cycles * (progress - warmup) / (1 - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * (done - min(int(done), cycles - 1))))


def cycles_done(progress: float, warmup: float, cycles: int) -> int:
    """The number of completed cycles of ``learning_rate``."""
    return int(max(0.0, cycles * (progress - warmup) / (1 - warmup)) + 1e-9)
