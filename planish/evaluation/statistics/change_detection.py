"""Has what comes in changed? Tests that may be looked at after every image and still keep their promised rate of false alarms.

Each value is ranked among the reference and all that came before it. While nothing has changed the ranks are uniform and independent,
whatever the values' distribution is, so nobody can win by betting on them: the chance that a capital of 1 ever grows to 1/p is at most p
(Ville's inequality). Once something changes the ranks crowd somewhere, and a bet on that grows quickly.

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
_TIMES = np.array([0.25, 0.5, 1.5, 2.0, 4.0])  # as often as usual, that a bet says a class will come


class _Capital:
    """A capital of 1, spread over bets that all are fair. What they win is shared a little after each, so that one which has lost for long
    can still win when the time comes; ever less, so that sharing costs nothing in the long run."""

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
    """Whether numbers still are distributed as the reference's: whether they moved, or spread out or in.

    Args:
        reference: values ``(n,)`` from when all was well.
        seed: of the ranks among equal values.

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
        """Take in the next value."""
        below, upto = bisect_left(self._pool, value), bisect_right(self._pool, value)
        rank = (below + self._random.random() * (upto - below + 1)) / (len(self._pool) + 1)
        insort(self._pool, value, below, upto)
        self._capital.multiply(np.concatenate([[1.0], _moved(rank), _moved(abs(2 * rank - 1))]))

    @property
    def log10_evidence(self) -> float:
        """3 says: were all as before, the chance of ever seeing this much were at most 1 in 1000."""
        return self._capital.log10


def _moved(rank: float) -> npt.NDArray[np.float64]:
    """Bets on ranks that are higher or lower than they should be, a little or much."""
    return np.append(1 + _SLOPES * (rank - 0.5), [_POWER * rank ** (_POWER - 1), _POWER * (1 - rank) ** (_POWER - 1)])


class MixChange:
    """Whether classes still come as often as in the reference: one that is missing, one that came to be frequent.

    Bets on each class that it comes so many times as often as it did.

    Args:
        reference: images of each class ``(classes,)`` from when all was well.
        seed: of the ranks among equal classes.
    """

    def __init__(self, reference: Sequence[int], seed: int = 0) -> None:
        self._counts = np.asarray(reference, dtype=np.float64)
        self._random = random.Random(seed)
        self._capital = _Capital(1 + len(reference) * len(_TIMES))

    def add(self, value: float) -> None:
        """Take in the next image's class number."""
        index = int(value)
        edges = np.concatenate([[0.0], self._counts.cumsum()])
        rank = (edges[index] + self._random.random() * (self._counts[index] + 1)) / (edges[-1] + 1)
        place = int(np.searchsorted(edges[1:-1], rank * edges[-1], side="right"))  # one of as many parts as classes, known beforehand
        usual = self._counts / edges[-1]
        alternatives = np.minimum(np.outer(usual, _TIMES), (1 + usual[:, None]) / 2)
        factors = (1 - alternatives) / np.maximum(1 - usual[:, None], 1e-12)  # of a class that is all there is, only its own place is used
        factors[place] = alternatives[place] / usual[place]
        self._capital.multiply(np.append(1.0, factors))
        self._counts[index] += 1

    @property
    def log10_evidence(self) -> float:
        """As of ``ValueChange``."""
        return self._capital.log10
