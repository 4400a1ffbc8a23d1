"""Power laws of the error as a function of the number of training images, and the expected gain of more images.

J. Hestness et al., Deep learning scaling is predictable, empirically, 2017 (arXiv:1712.00409): ``error = a + b * images ** -c``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from planish.evaluation.statistics.intervals import Floats, Interval

_EXPONENTS = np.linspace(0.05, 0.5, 91)  # published values are 0.07 to 0.35; larger exponents fit noise and predict no further gain
_RESAMPLES = 1000


class PowerLaw(NamedTuple):
    """``error = a + b * images ** -c``; the parameters are arrays if several curves are fitted at once."""

    a: Floats
    b: Floats
    c: Floats

    def error(self, images: float) -> Floats:
        """Return the predicted error on the 0..1 scale."""
        return np.asarray(self.a + self.b * float(images) ** -self.c)


def fit_power_law(images: npt.ArrayLike, errors: npt.ArrayLike) -> PowerLaw:
    """Fit a power law by least squares.

    The irreducible error ``a`` is at least 0; ``b`` is negative if the error grows with the number of images.

    Args:
        images: training images of each measurement, ``(S,)``, three or more.
        errors: ``(..., S)``, on the 0..1 scale; each row is fitted separately.
    """
    n, e = np.asarray(images, np.float64), np.asarray(errors, np.float64)
    x = n[None] ** -_EXPONENTS[:, None]  # (exponents, S)
    centred = x - x.mean(axis=1, keepdims=True)
    b = e @ (centred / (centred**2).sum(axis=1, keepdims=True)).T  # (..., exponents)
    a = e.mean(axis=-1)[..., None] - b * x.mean(axis=1)
    through_zero = e @ (x / (x**2).sum(axis=1, keepdims=True)).T
    a, b = np.where(a < 0, 0.0, a), np.where(a < 0, through_zero, b)
    misses = ((a[..., None] + b[..., None] * x - e[..., None, :]) ** 2).sum(axis=-1)
    best = misses.argmin(axis=-1)[..., None]
    return PowerLaw(
        np.take_along_axis(a, best, -1)[..., 0], np.take_along_axis(b, best, -1)[..., 0], _EXPONENTS[best[..., 0]]
    )  # fmt: skip


def gain_of_twice(images: npt.ArrayLike, scores: npt.ArrayLike, folds: npt.ArrayLike, seed: int = 0) -> Interval:
    """Return the expected gain in accuracy, on the 0..1 scale, from doubling the largest number of training images.

    The bootstrap resamples networks and, within each, its test images, in the same way for all sizes. Since networks of different folds
    share training images, the interval is widened as in ``intervals.over_folds``. It is also at least as wide as Student's interval over
    the gains of single networks, because a bootstrap of few networks varies too little.

    Args:
        images: numbers of training images, ``(S,)``, the largest last.
        scores: 0 to 1, of images that were not trained on, ``(S, repeats, N)``.
        folds: fold in which an image was tested, from 0, ``(repeats, N)``.
        seed: seed of the bootstrap.
    """
    sizes, x, fold_of = np.asarray(images, np.float64), np.asarray(scores, np.float64), np.asarray(folds)
    count, rng = int(fold_of.max()) + 1, np.random.default_rng(seed)
    networks = [np.unique(x[:, r, fold_of[r] == i], axis=1, return_counts=True) for r in range(x.shape[1]) for i in range(count)]
    # images with equal scores are resampled together: there are only a few distinct combinations
    drawn = np.stack([kinds @ rng.multinomial(n.sum(), n / n.sum(), _RESAMPLES).T / n.sum() for kinds, n in networks])
    chosen = rng.integers(0, len(networks), (len(networks), _RESAMPLES))
    errors = 1 - drawn[chosen, :, np.arange(_RESAMPLES)].mean(axis=0)  # (resamples, S)

    def gain(law: PowerLaw) -> Floats:
        return law.error(sizes[-1]) - law.error(2 * sizes[-1])

    value = float(gain(fit_power_law(sizes, 1 - x.mean(axis=(1, 2)))))
    wider = (1 + len(networks) / (count - 1)) ** 0.5
    low, high = value + wider * (np.percentile(gain(fit_power_law(sizes, errors)), [2.5, 97.5]) - value)
    single = np.array([float(gain(fit_power_law(sizes, 1 - kinds @ n / n.sum()))) for kinds, n in networks])
    half = float(stats.t.ppf(0.975, len(single) - 1) * single.std(ddof=1) / len(single) ** 0.5)
    return Interval(value, min(value - half, float(low)), max(value + half, float(high)))
