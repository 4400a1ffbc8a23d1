"""The risk that a model loses more than a limit on new images, although it lost less on those measured, and how many images would tell.

Only discordant images, on which exactly one of the models is right, show a difference in accuracy, and there are few of them. Tango's score
test takes their variance under the hypothesis that the drop is exactly the limit, so the risk is not 0 even without any discordant image.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from planish.evaluation.statistics.intervals import NORMAL_95, paired_difference
from planish.evaluation.statistics.paired_tests import p_not_worse
from planish.measurement import Measurement, Metric

_MOST_IMAGES = 1_000_000


def drop_risk(reference: npt.ArrayLike, model: npt.ArrayLike, limit: float, metric: Metric, images: float | None = None) -> Measurement:
    """Return the risk, in percent, that the drop on new images is above a limit.

    It is the p-value of the hypothesis that the drop is the limit or more: of models whose drop is just above the limit, at most a share
    ``risk`` has a risk this small. For scores of 0 and 1 it is Tango's test, see ``p_not_worse``; if the model gained no image, it is at
    least the exact binomial probability of losing so few (if the limit is one or two images, Tango's is too small). For other scores it is
    Student's test, with the standard error of the bootstrap interval.

    Args:
        reference: scores of the original on each image, ``(N,)``, see ``Task.scores``.
        model: scores of the model on the same images, ``(N,)``.
        limit: maximum drop, in the unit of a difference of the metric: points if it is in percent.
        metric: the metric that is the mean of the scores.
        images: see ``paired_difference``; for a metric that rests on a part of the images.
    """
    old, new = np.asarray(reference, np.float64), np.asarray(model, np.float64)
    better, worse = (old, new) if metric.higher_is_better else (new, old)
    share = limit / metric.scale
    if images is None and np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all():
        risk = _risk_of_counts(worse, better, share) if share < 1 else 0.0
    else:
        drop = paired_difference(better, worse, images=images)
        risk = risk_of_interval(drop.value, (drop.low, drop.high), share, round(images or len(old)))
    return Measurement("drop_risk", 100 * risk, "%", round(images or len(old)), False)


def _risk_of_counts(model: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], limit: float) -> float:
    by_score_test = p_not_worse(model, reference, limit)
    if (model > reference).any():
        return by_score_test
    return max(by_score_test, float(stats.binom.cdf((model < reference).sum(), len(model), limit)))


def risk_of_interval(drop: float, interval: tuple[float, float], limit: float, n: int) -> float:
    """Return the probability that a drop with a 95 % interval is above a limit, by Student's distribution.

    Args:
        drop: the measured drop.
        interval: lower and upper end of its 95 % interval, in the same unit.
        limit: maximum drop, in the same unit.
        n: number of images.
    """
    error = (interval[1] - interval[0]) / (2 * NORMAL_95)
    if error <= 0 or n < 2:
        return float(drop > limit)
    return float(stats.t.sf((limit - drop) / error, n - 1))


def images_needed(risk: float, accepted: float, n: int) -> float:
    """Return the number of images that would lower a risk to the accepted one if both models go on to win and lose as many of them.

    The distance from the limit, in standard errors, grows with the square root of the number of images: for Tango's test exactly.

    Args:
        risk: measured risk, 0 to 1.
        accepted: accepted risk, above 0 and below 0.5.
        n: number of images that the risk was measured on.

    Returns:
        The number, rounded up to two digits; infinite if the drop is not below the limit, or more than a million images would be needed.

    Example:
        >>> images_needed(0.18, 0.1, 393)
        780.0
    """
    if risk <= accepted:
        return float(n)
    if risk >= 0.5:
        return math.inf
    exact = n * float(stats.norm.isf(accepted) / stats.norm.isf(risk)) ** 2
    if exact > _MOST_IMAGES:
        return math.inf
    unit = 10 ** max(0, math.floor(math.log10(exact)) - 1)
    return float(math.ceil(exact / unit) * unit)
