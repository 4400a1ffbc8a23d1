"""Confidence intervals and paired tests. Intervals are at the 95% level unless noted otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
NORMAL_95 = 1.959963984540054  # two-sided 95% of the normal distribution
_DECIMALS = 14  # of differences of scores that are sums of fractions, so that equal models differ by exactly 0


class Interval(NamedTuple):
    """An estimate with its 95% confidence interval."""

    value: float
    low: float
    high: float


def proportion(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's interval for a proportion, on the 0..1 scale; ``(0, 1)`` if ``n`` is 0.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.
    """
    if n == 0:
        return 0.0, 1.0
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(values: npt.ArrayLike, seed: int = 0, resamples: int = 1000) -> Interval:
    """Return the mean of ``values`` ``(N,)`` with its percentile bootstrap interval over images."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2 or np.ptp(x) == 0:
        return Interval(mean, mean, mean)
    rows = max(1, 2_000_000 // len(x))  # keeps the index array below 16 MB
    rng = np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), (min(rows, resamples - done), len(x)))].mean(axis=1) for done in range(0, resamples, rows)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(mean, float(low), float(high))


def known_mean(values: Floats) -> Floats:
    """Return the mean of each row over its values that are not NaN, ``(R, ...)`` to ``(R,)``; NaN if all are."""
    flat = values.reshape(len(values), -1)
    sums, counts = np.nansum(flat, axis=1), (~np.isnan(flat)).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full(len(flat), np.nan), where=counts > 0))


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, seed: int = 0, images: float | None = None) -> Interval:
    """Return the mean of ``a - b`` over the same images, both ``(N,)``.

    Scores of 0 and 1 (wrong or right) get the Bonett-Price interval, which remains valid if the two models hardly differ: a bootstrap
    interval without any differences would have no width. Other scores are bootstrapped over images.

    D. G. Bonett and R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions based on paired data, 2012.

    Args:
        a: scores of one model.
        b: scores of the other one.
        seed: seed of the bootstrap.
        images: number of images that the scores rest on, see ``Task.effective_images``; the bootstrap interval is then at least as wide
            as the Bonett-Price interval of two models that agree on all of them.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"paired scores must have one shape (N,), got {x.shape} and {y.shape}")
    if images is not None or not np.isin(x, (0, 1)).all() or not np.isin(y, (0, 1)).all():
        value, low, high = (round(end, _DECIMALS) for end in bootstrap_mean(x - y, seed))
        least = 0.0 if images is None else NORMAL_95 * 2**0.5 / (images + 2)
        return Interval(value, min(low, value - least), max(high, value + least))
    n = len(x)
    gained, lost = (np.sum(x > y) + 1) / (n + 2), (np.sum(x < y) + 1) / (n + 2)
    half = NORMAL_95 * np.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    value = float((x - y).mean())
    return Interval(value, max(-1.0, float(min(value, gained - lost - half))), min(1.0, float(max(value, gained - lost + half))))


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the exact two-sided p-value of the hypothesis that two models have the same accuracy.

    Q. McNemar, Note on the sampling error of the difference between correlated proportions or percentages, 1947.

    Args:
        a: whether the first model is right on each image ``(N,)``.
        b: whether the second model is right on each image ``(N,)``.
    """
    x, y = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    gained, lost = int(np.sum(x & ~y)), int(np.sum(~x & y))
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def over_launches(launches: Sequence[npt.ArrayLike], statistic: Any = np.median, seed: int = 0) -> Interval:
    """Return a statistic of positive timings from several launches of the same process; one array ``(rounds,)`` per launch.

    The rounds of one launch share random effects of that launch (mainly memory layout), so they are not independent, and an interval over
    pooled rounds is far too narrow. Each launch gives one number; their geometric mean gets Student's interval on the log scale. (A
    bootstrap of three to five launches at the 95% level has a coverage of 80%.) For a single launch the rounds are bootstrapped, and the
    interval does not include the variation between launches.
    """
    logs = [np.log(np.asarray(x, dtype=np.float64)) for x in launches]
    if len(logs) == 1:
        rng = np.random.default_rng(seed)
        drawn = statistic(logs[0][rng.integers(0, len(logs[0]), (2000, len(logs[0])))], axis=1)
        centre, (low, high) = float(statistic(logs[0])), np.percentile(drawn, [2.5, 97.5])
    else:
        each = np.array([statistic(x) for x in logs])
        centre = float(each.mean())
        half = float(stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
        low, high = centre - half, centre + half
    return Interval(float(np.exp(centre)), float(np.exp(low)), float(np.exp(high)))


def paired_ratio(baseline: Sequence[npt.ArrayLike], candidate: Sequence[npt.ArrayLike], seed: int = 0) -> Interval:
    """Return the latency ratio baseline / candidate, above 1 if the candidate is faster.

    Args:
        baseline: one array ``(rounds,)`` per launch, in any unit of time.
        candidate: the same rounds of the same launches.
        seed: seed of the bootstrap, which is used only for a single launch.
    """
    ratios = [np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64) for a, b in zip(baseline, candidate, strict=True)]
    return over_launches(ratios, seed=seed)


def over_seeds(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of ``a - b`` over images and over trainings with different seeds, both ``(seeds, N)``; images and seeds are paired.

    The interval covers the variation of both images and seeds: the variance of the mean is that of the images' mean differences divided by
    N, plus that of the seeds' mean differences divided by their number. Each term is multiplied by the square of Student's quantile with
    its own degrees of freedom, N - 1 and seeds - 1, so that the coverage is at least the level for any two variances (S. K. Banerjee,
    Approximate confidence interval for linear functions of means of k populations when the population variances are not equal, Sankhya
    1960). Welch-Satterthwaite degrees of freedom would be those of the images if two or three seeds happen to agree, and the interval too
    narrow: with ten equal arms and two seeds, some arm was called different in up to 43 % of studies, at a nominal 5 %.

    Models with scores of 0 and 1 that hardly differ are not known to be equal: the variance of the images is at least that of one image won
    and one lost, as in ``paired_difference``. A single seed does not show the variation between seeds, so the interval is -1 to 1.

    Args:
        a: scores, 0 to 1.
        b: scores, 0 to 1.
        level: confidence level, 0.95 for 95 %.
    """
    x, y = np.atleast_2d(np.asarray(a, np.float64)), np.atleast_2d(np.asarray(b, np.float64))
    if x.shape != y.shape:
        raise ValueError(f"paired scores must have one shape (seeds, N), got {x.shape} and {y.shape}")
    difference = x - y
    value, (seeds, images) = float(difference.mean()), difference.shape
    if seeds < 2 or images < 2:
        return Interval(value, -1.0, 1.0)
    of_images, of_seeds = (float(difference.mean(axis=axis).var(ddof=1)) for axis in (0, 1))
    if np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all():
        of_images = max(of_images, 2 / (images + 2))
    t_images, t_seeds = (float(stats.t.ppf(0.5 + level / 2, n - 1)) for n in (images, seeds))
    half = (t_images**2 * of_images / images + t_seeds**2 * of_seeds / seeds) ** 0.5
    return Interval(value, max(-1.0, value - half), min(1.0, value + half))


def mean_over_seeds(scores: npt.ArrayLike) -> Interval:
    """Return the mean score over images and trainings, with the interval of ``over_seeds``; the interval is 0 to 1 for a single seed.

    Args:
        scores: 0 to 1, ``(seeds, N)``.
    """
    x = np.atleast_2d(np.asarray(scores, np.float64))
    value, low, high = over_seeds(x, np.zeros_like(x))
    return Interval(value, max(0.0, low), min(1.0, high))


def over_folds(scores: npt.ArrayLike, folds: npt.ArrayLike) -> Interval:
    """Return the mean score of a cross-validation, 0 to 1; each score is by a network that was not trained on the image.

    Networks of different folds share most of their training images, so their scores are not independent: a 95 % interval over images has a
    coverage of 80 % to 90 %. Nadeau and Bengio correct for the shared images: the variance is that of one fold's mean, times
    ``1 / networks + 1 / (folds - 1)``. The variance of a fold's mean is computed from its images or, if it is larger, from the means of the
    folds. With few networks that variance is uncertain, so the interval is at least as wide as Student's over networks.

    C. Nadeau and Y. Bengio, Inference for the generalization error, Machine Learning 2003. R. R. Bouckaert and E. Frank, Evaluating the
    replicability of significance tests for comparing learning algorithms, 2004.

    Args:
        scores: ``(repeats, N)``.
        folds: fold in which an image was tested, from 0, ``(repeats, N)``.
    """
    x, fold_of = np.atleast_2d(np.asarray(scores, np.float64)), np.atleast_2d(np.asarray(folds))
    if x.shape != fold_of.shape:
        raise ValueError(f"each score has a fold, got {x.shape} and {fold_of.shape}")
    count, images = int(fold_of.max()) + 1, x.shape[1]
    means = np.array([x[r, fold_of[r] == i].mean() for r in range(len(x)) for i in range(count)])
    of_image = max(float(x.var()), (1 - 1 / images) / images)  # lower bound, since even without any errors the next image may be one
    of_fold = max(of_image * count / images, float(means.var(ddof=1)))
    networks = len(means)
    over_networks = float(stats.t.ppf(0.975, networks - 1)) * (float(means.var(ddof=1)) / networks) ** 0.5
    value, half = float(x.mean()), max(NORMAL_95 * (of_fold * (1 / networks + 1 / (count - 1))) ** 0.5, over_networks)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))
