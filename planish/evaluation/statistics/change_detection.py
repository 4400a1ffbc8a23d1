"""Sequential tests for drift: they may be checked after every image and still keep their nominal false alarm rate.

Each value is ranked among the reference and all earlier values. As long as nothing has changed, the ranks are uniform and independent for
any distribution of the values, so the capital of a gambler who bets on them is a martingale: the probability that a capital of 1 ever grows
to 1/p is at most p (Ville's inequality). After a change the ranks concentrate somewhere, and bets on that region grow quickly.

V. Vovk, A. Gammerman, G. Shafer, Algorithmic Learning in a Random World, 2nd edition 2022, part III; V. Fedorova et al., Plug-in
martingales for testing exchangeability on-line, ICML 2012; M. Herbster, M. Warmuth, Tracking the best expert, 1998 (sharing of capital).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_SLOPES = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
_POWER = 8
_TIMES = np.array([0.25, 0.5, 1.5, 2.0, 4.0])  # factors on the frequency of a class that are bet on


class _Capital:
    """The capital of a betting martingale: initially 1, spread over several fair bets.

    After each round a fraction of the capital is redistributed evenly, so that a bet that has lost for long can still grow after a change.
    The fraction decreases over time, so that the cost of sharing stays small.
    """

    def __init__(self, bets: int) -> None:
        self._shares = np.full(bets, 1 / bets)
        self._count = 1
        self.log10 = 0.0  # of the whole capital

    def multiply(self, factors: npt.NDArray[np.float64]) -> None:
        self._shares *= factors
        total = float(self._shares.sum())
        self.log10 += math.log10(total)
        self._count += 1
        self._shares *= (1 - 1 / self._count) / total
        self._shares += 1 / self._count / len(self._shares)


class ValueChange:
    """A test whether numbers are still distributed like the reference; it detects shifts and changes of spread.

    Args:
        reference: values ``(n,)`` without drift.
        seed: seed that breaks ties between equal values.

    Example:
        >>> test = ValueChange([0.1, 0.2, 0.3, 0.4] * 25)
        >>> for _ in range(40):
        ...     test.add(0.5)
        >>> test.log10_evidence > 6
        True
    """

    def __init__(self, reference: Sequence[float], seed: int = 0) -> None:
        self._pool = sorted(reference)
        self._random = random.Random(seed)
        self._capital = _Capital(1 + 2 * (len(_SLOPES) + 2))

    def add(self, value: float) -> None:
        """Add the next value."""
        below, upto = bisect_left(self._pool, value), bisect_right(self._pool, value)
        rank = (below + self._random.random() * (upto - below + 1)) / (len(self._pool) + 1)
        insort(self._pool, value, below, upto)
        self._capital.multiply(np.concatenate([[1.0], _moved(rank), _moved(abs(2 * rank - 1))]))

    @property
    def log10_evidence(self) -> float:
        """Log10 of the capital: a value of 3 means that, without a change, the probability of ever reaching it is at most 1 in 1000."""
        return self._capital.log10


def _moved(rank: float) -> npt.NDArray[np.float64]:
    """Return the payoffs of bets on ranks that are slightly or much higher or lower than expected."""
    return np.append(1 + _SLOPES * (rank - 0.5), [_POWER * rank ** (_POWER - 1), _POWER * (1 - rank) ** (_POWER - 1)])


class MixChange:
    """A test whether the class frequencies are still those of the reference; it detects classes that become rarer or more frequent.

    For each class and each factor, one bet assumes that its frequency has changed by that factor.

    Args:
        reference: number of images of each class ``(classes,)`` without drift.
        seed: seed that breaks ties between images of the same class.
    """

    def __init__(self, reference: Sequence[int], seed: int = 0) -> None:
        self._counts = np.asarray(reference, dtype=np.float64)
        self._random = random.Random(seed)
        self._capital = _Capital(1 + len(reference) * len(_TIMES))

    def add(self, value: float) -> None:
        """Add the class index of the next image."""
        index = int(value)
        edges = np.concatenate([[0.0], self._counts.cumsum()])
        rank = (edges[index] + self._random.random() * (self._counts[index] + 1)) / (edges[-1] + 1)
        place = int(np.searchsorted(edges[1:-1], rank * edges[-1], side="right"))  # one interval per class, fixed before the value arrives
        usual = self._counts / edges[-1]
        alternatives = np.minimum(np.outer(usual, _TIMES), (1 + usual[:, None]) / 2)
        factors = (1 - alternatives) / np.maximum(1 - usual[:, None], 1e-12)  # for a class with frequency 1 only its own entry is used
        factors[place] = alternatives[place] / usual[place]
        self._capital.multiply(np.append(1.0, factors))
        self._counts[index] += 1

    @property
    def log10_evidence(self) -> float:
        """Log10 of the capital; see ``ValueChange.log10_evidence``."""
        return self._capital.log10
