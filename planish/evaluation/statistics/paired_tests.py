"""One-sided tests of two models on the same images: is the new one better, is it worse by no more than a margin?"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats


def p_better(new: npt.ArrayLike, old: npt.ArrayLike) -> float:
    """P-value that the new model is right on no more images than the old one: exact McNemar, one-sided.

    Only images that one model has right and the other wrong count. Of two equally good models each wins such an image with probability
    1/2, so that a p-value of 0.05 or less comes up in at most 5 % of comparisons, however few images there are.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, 1947.

    Args:
        new: whether each image is right, ``(N,)``.
        old: likewise.
    """
    won, lost = _discordant(new, old)
    return float(stats.binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def p_not_worse(new: npt.ArrayLike, old: npt.ArrayLike, margin: float) -> float:
    """P-value that the new model is right on fewer images by the share ``margin`` or more: Tango's score test of non-inferiority.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design, 1998.

    Args:
        new: whether each image is right, ``(N,)``.
        old: likewise.
        margin: share of the images, above 0 and below 1.
    """
    won, lost = _discordant(new, old)
    n = len(np.asarray(new))
    # the most likely share of images that are lost if the difference is exactly the margin: the root of a quadratic
    a, b, c = 2 * n, -won - lost - (2 * n - won + lost) * margin, lost * margin * (1 + margin)
    lost_share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * lost_share - margin * (1 + margin))
    distance = won - lost + n * margin
    if variance <= 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.norm.sf(distance / math.sqrt(variance)))


def images_to_show_better(alpha: float) -> int:
    """How few images can show that a model is better: as many as it must win, losing none."""
    return math.ceil(math.log(alpha) / math.log(0.5))


def images_to_show_not_worse(alpha: float, margin: float) -> int:
    """How few images can show that a model is worse by less than the margin: where both models say the same of every one."""
    z = float(stats.norm.isf(alpha))
    return math.floor(z * z * (1 - margin) / margin) + 1


def _discordant(new: npt.ArrayLike, old: npt.ArrayLike) -> tuple[int, int]:
    """Images that only the new model has right, and only the old one."""
    x, y = np.asarray(new, dtype=bool), np.asarray(old, dtype=bool)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"both models judge the same images (N,), got {x.shape} and {y.shape}")
    return int(np.sum(x & ~y)), int(np.sum(~x & y))
