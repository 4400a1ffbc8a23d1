"""How error falls with the number of training images, and what more of them would bring.

J. Hestness et al., Deep learning scaling is predictable, empirically, 2017 (arXiv:1712.00409): ``error = a + b * images ** -c``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from planish.evaluation.statistics.intervals import Floats, Interval

_EXPONENTS = np.linspace(0.05, 0.5, 91)  # those found in practice are 0.07 to 0.35; steeper ones fit noise and see no gain ahead
_RESAMPLES = 1000


class PowerLaw(NamedTuple):
    """``error = a + b * images ** -c``; arrays where many are fitted at once."""

    a: Floats
    b: Floats
    c: Floats

    def error(self, images: float) -> Floats:
        """On the 0..1 scale."""
        return np.asarray(self.a + self.b * float(images) ** -self.c)


def fit_power_law(images: npt.ArrayLike, errors: npt.ArrayLike) -> PowerLaw:
    """Least squares. What no number of images would remove, ``a``, is not below 0; ``b`` may be, where more images seem to add errors.

    Args:
        images: training images of each measurement, ``(S,)``, three or more.
        errors: ``(..., S)``, on the 0..1 scale; each row gets a law of its own.
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
    """By how much accuracy would rise, on the 0..1 scale, with twice as many images as the most that were tried.

    Networks and, within each, the images that it judged are drawn anew, for all sizes the same. As networks of different folds share
    training images, the interval is widened as that of ``statistics.over_folds``, and likewise is at least Student's over what single
    networks say: two networks drawn anew vary too little.

    Args:
        images: that networks were trained on, ``(S,)``, the most last.
        scores: 0 to 1, of images not trained on, ``(S, repeats, N)``.
        folds: in which an image was judged, from 0, ``(repeats, N)``.
        seed: of the bootstrap.
    """
    sizes, x, fold_of = np.asarray(images, np.float64), np.asarray(scores, np.float64), np.asarray(folds)
    count, rng = int(fold_of.max()) + 1, np.random.default_rng(seed)
    networks = [np.unique(x[:, r, fold_of[r] == i], axis=1, return_counts=True) for r in range(x.shape[1]) for i in range(count)]
    # images with equal scores are drawn together: there are a few kinds only
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
