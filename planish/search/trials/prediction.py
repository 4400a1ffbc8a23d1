"""Predictions with uncertainty: what a level of compression costs before training, and how much of that training recovers.

Both are Gaussian processes: linear in a few features whose weights have a prior, plus a smooth or a per-trial deviation
(Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, 2.7). Each trial that is screened or trained updates them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from planish.search.trials.proposals import Level

Floats = npt.NDArray[np.float64]

_LEAST = 0.3  # smallest drop on a log scale, in points: below it a difference has no effect
_EASY = 20  # steps of training after which recovery becomes slow

# Prior of the drop after training, which approaches a floor: docs/decisions/0143-a-drop-has-a-floor.md and 0147 have the recoveries that it
# rests on.
_SLOPE = -0.45  # log of what is left above the floor, per doubling of the steps
_TRAINED_SLOPE = -0.3  # the same if the original came trained
_SPARE_EXPONENT = 0.08  # of the original's error by how many times smaller a network is, after any training
_EXPONENT_OF_MILLION, _SIZE_POWER = 0.13, -0.6  # the same by the original's parameters: that of a million, and its power of their number
_EXPONENT_RANGE = (0.05, 0.4)
_LARGE_SIDE = 224  # pixels: of smaller images, fewer pixels cost more than fewer channels
_ERROR_RANGE = (5.0, 20.0)  # of the original's error in points: outside it says little about what a smaller network loses
_FLOOR_SHARE = 0.5  # maximum floor as a share of the drop before training
# Standard deviations of the weights of ``_recovery_features``.
_RECOVERY_SPREAD = np.array([0.4, 0.1, 0.3, 0.3, 0.5, 1.0])
_TRIAL_SPREAD = 0.5  # between trials of a kind
_RECOVERY_NOISE = 0.15  # between two trainings of a trial

# Log of the speed-up per unit of ``_sizes``, by widths, image size and blocks.
_SPEED_MEAN, _SPEED_SPREAD = np.array([0.8, 0.85, 0.8]), np.array([0.2, 0.2, 0.2])
_SPEED_SMOOTH, _SPEED_NOISE = 0.1, 0.02
# Logit of the drop before training as a share of the score, by ``_drop_features``.
_DROP_MEAN, _DROP_SPREAD = np.array([-1.5, 2.5, 0.0, 0.0]), np.array([2.0, 0.7, 1.5, 1.5])
_DROP_SMOOTH, _DROP_NOISE = 0.4, 0.2
_LENGTH = 0.7  # length scale of the smooth deviation

_QUANTILES = (np.arange(40) + 0.5) / 40


@dataclass(frozen=True)
class Normal:
    """Normal distributions.

    Args:
        mean: their means.
        deviation: their standard deviations.
    """

    mean: Floats
    deviation: Floats

    def quantiles(self) -> Floats:
        """Return ``(40, ...)`` evenly spaced quantiles."""
        z = np.asarray(special.ndtri(_QUANTILES)).reshape(-1, *[1] * self.mean.ndim)
        return np.asarray(self.mean + z * self.deviation)


def condition(covariance: Floats, mean: Floats, values: Floats, noise: Floats) -> Normal:
    """Condition a normal prior on noisy observations of its first variables; return the distributions of the others.

    Args:
        covariance: prior covariance ``(n, n)`` of all variables.
        mean: prior means ``(n,)``.
        values: observations ``(k,)`` of the first ``k`` variables.
        noise: standard deviations ``(k,)`` of the observations.
    """
    k = len(values)
    gain = np.linalg.solve(covariance[:k, :k] + np.diag(noise**2) + 1e-9 * np.eye(k), covariance[:k, k:]).T
    variance = np.diag(covariance[k:, k:] - gain @ covariance[:k, k:])
    return Normal(mean[k:] + gain @ (values - mean[:k]), np.sqrt(np.maximum(variance, 1e-12)))


@dataclass(frozen=True)
class Recovery:
    """A recovery of a trial: observed, or to be predicted.

    Args:
        trial: name of the trial.
        level: its level of compression.
        before: drop before any training, in points.
        steps: training steps since then.
        after: drop after them, in points; NaN if it is to be predicted.
        error: standard error of ``after``, in points.
        floor: drop that is expected to remain however long it is trained, in points; see ``RecoveryPrior``.
        slope: log of what is left above the floor, per doubling of the steps.
        uncertainty: standard deviation of the log of ``before``, if that is itself predicted.
    """

    trial: str
    level: Level
    before: float
    steps: float
    after: float = math.nan
    error: float = 0.0
    floor: float = 0.0
    slope: float = _SLOPE
    uncertainty: float = 0.0


@dataclass(frozen=True)
class RecoveryPrior:
    """How smaller networks are expected to recover: how fast, and the drops that remain however long they are trained.

    The error of networks of a kind grows with a power of how many times smaller they are (Rosenfeld et al. 2020, A Constructive Prediction
    of the Generalization Error Across Scales, arXiv:1909.12673). The exponent depends on how much larger than necessary the original is,
    for which its parameters stand; ``predict_recoveries`` learns it from the trials that were trained.

    Args:
        error: error of the original in points: what its score lacks to a perfect one.
        parameters: number of its parameters.
        side: shorter side of its images, in pixels.
        trained_before: whether the original came trained. One that was trained for some minutes of this run gains by more training, which
            makes up for what a smaller network loses.
    """

    error: float
    parameters: int
    side: int
    trained_before: bool

    @property
    def exponent(self) -> float:
        """The exponent that is expected."""
        by_size = _EXPONENT_OF_MILLION * (max(1, self.parameters) / 1e6) ** _SIZE_POWER
        return float(np.clip(by_size, *_EXPONENT_RANGE)) if self.trained_before else _SPARE_EXPONENT

    @property
    def slope(self) -> float:
        """The slope that is expected, see ``Recovery``."""
        return _TRAINED_SLOPE if self.trained_before else _SLOPE

    def floor(self, level: Level, gain: float) -> float:
        """Return the floor of a smaller network, in points.

        Args:
            level: its level, which says about how many times fewer MACs it has.
            gain: its speed-up, which is used for a student instead.
        """
        widths, pixels, blocks = _sizes(level)
        pixels *= max(1.0, _LARGE_SIDE / self.side) ** 0.5
        times_smaller = math.log(max(1.0, gain)) if level.student else widths + pixels + blocks
        return float(np.clip(self.error, *_ERROR_RANGE)) * math.expm1(self.exponent * times_smaller)


def predict_recoveries(observed: Sequence[Recovery], wanted: Sequence[Recovery]) -> Normal:
    """Predict the log of the drop, in points, after training.

    What of a drop is above its floor is reduced to a share of it, whose log is about linear in the log of the number of steps. Trials
    differ in how well they recover, so an observed recovery of a trial says more about that trial than about others.

    Args:
        observed: recoveries of this search.
        wanted: recoveries to predict.
    """
    everything = [*observed, *wanted]
    expected, features = (np.array(part) for part in zip(*map(_recovery_features, everything), strict=True))
    same = np.array([[a.trial == b.trial for b in everything] for a in everything])
    covariance = features @ np.diag(_RECOVERY_SPREAD**2) @ features.T + _TRIAL_SPREAD**2 * same
    values = np.log([max(r.after, r.error, _LEAST) for r in observed])
    noise = np.array([math.hypot(_RECOVERY_NOISE, min(1.0, r.error / max(r.after, r.error, _LEAST))) for r in observed])
    found = condition(covariance, expected, values, noise)
    return Normal(found.mean, np.hypot(found.deviation, [r.uncertainty for r in wanted]))


def _recovery_features(recovery: Recovery) -> tuple[float, tuple[float, ...]]:
    """Return the expected log of the drop, and the features of the deviation from it."""
    level, before = recovery.level, max(recovery.before, _LEAST)
    doublings = math.log2(1 + recovery.steps / _EASY)
    left = math.exp(recovery.slope * doublings)
    floor = min(recovery.floor, _FLOOR_SHARE * before) * (1 - left)
    above = before * left
    share = above / (above + floor)
    kinds = (float(level.resolution < 1), float(level.blocks > 0), float(bool(level.student)))
    return math.log(above + floor), (1.0, share * doublings, *(share * kind for kind in kinds), 1 - share)


@dataclass(frozen=True)
class ScreenedLevel:
    """What screening measured at a level.

    Args:
        level: the level.
        speedup: latency of the uncompressed network in the same precision, divided by that of this one.
        drop: drop before training, as a share of the original's score.
    """

    level: Level
    speedup: float
    drop: float


def predict_levels(screened: Sequence[ScreenedLevel], wanted: Sequence[Level]) -> tuple[Normal, Normal]:
    """Predict, for levels that were not screened, the log of the speed-up and the logit of the drop before training.

    Args:
        screened: the screened levels, not of students.
        wanted: the levels to predict, not of students.
    """
    levels = [*(s.level for s in screened), *wanted]
    sizes = np.array([_sizes(level) for level in levels])
    speeds = np.log([s.speedup for s in screened])
    speed = condition(
        sizes @ np.diag(_SPEED_SPREAD**2) @ sizes.T + _smooth(sizes, _SPEED_SMOOTH) * np.outer(sizes.sum(1), sizes.sum(1)),
        sizes @ _SPEED_MEAN,
        speeds,
        np.full(len(screened), _SPEED_NOISE),
    )
    features = np.array([_drop_features(size) for size in sizes])
    shares = np.clip([s.drop for s in screened], 1e-3, 1 - 1e-3)
    drop = condition(
        features @ np.diag(_DROP_SPREAD**2) @ features.T + _smooth(sizes, _DROP_SMOOTH),
        features @ _DROP_MEAN,
        np.log(shares / (1 - shares)),
        np.full(len(screened), _DROP_NOISE),
    )
    return speed, drop


def _sizes(level: Level) -> tuple[float, float, float]:
    """Return the log of what remains of the network, negated: by widths, image size and blocks."""
    return math.log(level.speedup), -2 * math.log(level.resolution), -math.log(1 - level.blocks)


def _drop_features(sizes: Floats) -> tuple[float, ...]:
    total = max(float(sizes.sum()), 1e-3)
    return 1.0, math.log(total), sizes[1] / total, sizes[2] / total


def _smooth(sizes: Floats, deviation: float) -> Floats:
    distance = ((sizes[:, None] - sizes[None]) ** 2).sum(-1)
    return np.asarray(deviation**2 * np.exp(-distance / (2 * _LENGTH**2)))
