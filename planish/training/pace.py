"""How far a training is, and the learning rate that belongs there."""

from __future__ import annotations

import math
import time


class Pace:
    """Progress from 0 to 1, by steps or by the clock, whichever is further.

    So the learning rate reaches 0 when the deadline comes, however slow the machine, instead of being cut off half-way.

    Args:
        total_steps: steps of the whole training.
        deadline: in ``time.monotonic`` seconds, None for none.
        reached: progress already made, for a training that is resumed.
    """

    def __init__(self, total_steps: int, deadline: float | None, reached: float = 0.0) -> None:
        self.total_steps, self.deadline, self.reached = total_steps, deadline, reached
        self.reserved_seconds = 0.0  # needed after the last step: validation
        self._begun = time.monotonic()

    def progress(self, steps: float) -> float:
        """Progress after that many steps, now; at most 1."""
        by_steps = steps / self.total_steps
        if self.deadline is None:
            return min(1.0, by_steps)
        allowed = self.deadline - self.reserved_seconds - self._begun
        spent = time.monotonic() - self._begun
        by_clock = self.reached + (1 - self.reached) * (spent / allowed) if spent < allowed else 1.0
        return min(1.0, max(by_steps, by_clock))


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
