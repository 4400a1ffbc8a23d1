"""One-sided paired tests of two models on the same images: superiority and non-inferiority of the new one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats


def p_better(new: npt.ArrayLike, old: npt.ArrayLike) -> float:
    """Return the p-value of the hypothesis that the new model is not more accurate than the old one: exact one-sided McNemar test.

    Only discordant images count, on which exactly one of the models is right. If both models are equally good, each wins such an image with
    probability 1/2, so a p-value of 0.05 or less occurs in at most 5 % of comparisons, for any number of images.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, 1947.

    Args:
        new: whether the new model is right on each image, ``(N,)``.
        old: whether the old model is right on each image, ``(N,)``.
    """
    won, lost = _discordant(new, old)
    return float(stats.binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def p_not_worse(new: npt.ArrayLike, old: npt.ArrayLike, margin: float) -> float:
    """Return the p-value of the hypothesis that the new model's accuracy is lower by ``margin`` or more: Tango's non-inferiority test.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design, 1998.

    Args:
        new: whether the new model is right on each image, ``(N,)``.
        old: whether the old model is right on each image, ``(N,)``.
        margin: difference in accuracy, at least 0 and below 1.
    """
    won, lost = _discordant(new, old)
    n = len(np.asarray(new))
    # maximum likelihood estimate of the share of images lost if the difference is exactly the margin: the root of a quadratic
    a, b, c = 2 * n, -won - lost - (2 * n - won + lost) * margin, lost * margin * (1 + margin)
    lost_share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * lost_share - margin * (1 + margin))
    distance = won - lost + n * margin
    if variance <= 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.norm.sf(distance / math.sqrt(variance)))


def images_to_show_better(alpha: float) -> int:
    """Return the minimum number of images that can show superiority: those that the new model must win if it loses none."""
    return math.ceil(math.log(alpha) / math.log(0.5))


def images_to_show_not_worse(alpha: float, margin: float) -> int:
    """Return the minimum number of images that can show non-inferiority, reached if both models agree on every image."""
    z = float(stats.norm.isf(alpha))
    return math.floor(z * z * (1 - margin) / margin) + 1


def _discordant(new: npt.ArrayLike, old: npt.ArrayLike) -> tuple[int, int]:
    """Return the number of images that only the new model has right, and that only the old one has right."""
    x, y = np.asarray(new, dtype=bool), np.asarray(old, dtype=bool)
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise ValueError(f"both models judge the same images (N,), got {x.shape} and {y.shape}")
    return int(np.sum(x & ~y)), int(np.sum(~x & y))
