"""Which trial to train next, and for how long: the one with the largest expected improvement under the goal, looking two trainings ahead.

Expected improvement under a constraint: M. Schonlau, W. Welch, D. Jones, Global versus Local Search in Constrained Optimization of Computer
Models, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NextTraining:
    """A training to carry out.

    Args:
        trial: index of the trial.
        duration: index of the duration.
        improvement: expected improvement of the value over the best candidate so far, by this training and the best one after it.
    """

    trial: int
    duration: int
    improvement: float


def success(drops: Floats, limit: float, error: float | Floats) -> Floats:
    """Return the probability, for each quantile, that the drop as measured on validation is within the limit.

    Args:
        drops: true drops.
        limit: the limit.
        error: standard error of the measurement; broadcasts with ``drops``.
    """
    return np.asarray(special.ndtr((limit - drops) / np.maximum(error, 1e-9)))


def best_choice(values: Sequence[float], within: Floats, rest: Floats, best: float) -> NextTraining:
    """Choose a training, given what may follow it: the same trial for the rest of the time, or another one.

    Args:
        values: value of each trial if its drop is within the limit.
        within: probability ``(quantiles, trials, durations)`` that a trial is within the limit after a training; the last duration is all
            the time there is.
        rest: the same for a trial that is trained only in the time that each duration leaves; its last entry is not used.
        best: value of the best candidate so far.

    Returns:
        The choice; of several about as good, the longest training.
    """
    worth = np.array(values)
    gains = np.maximum(0.0, worth - best)
    found = (within * gains[:, None]).mean(0)  # (trials, durations): nothing follows
    for duration in range(within.shape[2] - 1):
        after = rest[:, :, duration].mean(0)
        now = within[:, :, duration].mean(0)
        again = ((1 - within[:, :, duration]) * within[:, :, -1]).mean(0) * gains
        for trial in range(len(values)):
            others = np.arange(len(values)) != trial
            further = (after * np.maximum(0.0, worth - max(best, values[trial])))[others].max(initial=0.0)
            instead = (after * gains)[others].max(initial=0.0)
            found[trial, duration] += now[trial] * further + max(again[trial], (1 - now[trial]) * instead)
    near = found >= 0.98 * found.max()
    trial, duration = max(zip(*np.nonzero(near), strict=True), key=lambda pair: (pair[1], found[pair]))
    return NextTraining(int(trial), int(duration), float(found[trial, duration]))
