"""The learning rate by how far a training is."""

from __future__ import annotations

import math


def learning_rate(progress: float, highest: float, warmup: float, cycles: int = 1, constant_from: float = 1.0) -> float:
    """Linear from 0 to ``highest`` while ``progress`` is below ``warmup``, then half cosines down to 0.

    Args:
        progress: 0 to 1.
        highest: that is reached.
        warmup: share of the training, below 1.
        cycles: half cosines, all of one length; each begins at ``highest`` again.
        constant_from: progress from which on the rate stays what it is there.
    """
    progress = min(progress, constant_from)
    if progress < warmup:
        return highest * progress / warmup
    done = cycles * (progress - warmup) / (1 - warmup)
    return highest * 0.5 * (1 + math.cos(math.pi * (done - min(int(done), cycles - 1))))


def cycles_done(progress: float, warmup: float, cycles: int) -> int:
    """How many cycles of ``learning_rate`` are over."""
    return int(max(0.0, cycles * (progress - warmup) / (1 - warmup)) + 1e-9)
