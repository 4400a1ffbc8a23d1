"""Temperature scaling: a single parameter, fitted on validation, that calibrates a classifier without changing its predictions.

C. Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv:1706.04599).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from planish.evaluation.metrics.classification import (
    calibration_error,
    checked,
    confidence_bins,
    log_loss,
    nats,
    percent,
    probabilities,
    share,
)
from planish.evaluation.statistics.intervals import Floats, Interval
from planish.measurement import Measurement

_MOST = 1000.0  # temperatures are limited to 1 / 1000 to 1000


def fit_temperature(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Interval:
    """Return the temperature, by which logits are divided, that minimizes the log loss.

    The loss is convex in 1 / temperature, so the root of its derivative is found. The interval of the log temperature is that of an
    M-estimator. If there are no errors, the loss has no minimum and the temperature is 1; if the model is worse than guessing, it is 1000.
    In both cases the interval is 0.001 to 1000.

    Args:
        logits: ``(N, classes)`` of images that were not trained on.
        targets: class indices ``(N,)``.

    Raises:
        ModelError: the logits contain NaN or infinity, or are not ``(N, classes)``.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    scores = scores - scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(labels)), labels]

    def slopes(log_sharpness: float) -> tuple[Floats, Floats]:
        """Return the first and second derivative of each image's loss with respect to 1 / temperature."""
        probs = probabilities(scores * math.exp(log_sharpness))
        expected = (probs * scores).sum(axis=1)
        return expected - own, (probs * scores**2).sum(axis=1) - expected**2

    def slope(log_sharpness: float) -> float:
        return float(slopes(log_sharpness)[0].mean())

    end = math.log(_MOST)
    if slope(end) <= 0:
        return Interval(1.0, 1 / _MOST, _MOST)
    if slope(-end) >= 0:
        return Interval(_MOST, 1 / _MOST, _MOST)
    found = float(optimize.brentq(slope, -end, end))
    first, second = slopes(found)
    curvature = float(second.mean()) * math.exp(found)
    error = math.sqrt(np.mean(first**2) / len(labels)) / curvature if curvature else math.inf  # of the logarithm
    low, high = (math.exp(min(max(side * 1.96 * error - found, -end), end)) for side in (-1, 1))
    return Interval(math.exp(-found), low, high)


def temperature_scaling(
    validation_logits: npt.ArrayLike, validation_targets: npt.ArrayLike, logits: npt.ArrayLike, targets: npt.ArrayLike
) -> dict[str, Measurement]:
    """Fit the temperature on validation, and measure its effect on other images.

    Args:
        validation_logits: ``(M, classes)``.
        validation_targets: class indices ``(M,)``.
        logits: ``(N, classes)`` of the other images, for example the test split.
        targets: class indices ``(N,)``.

    Returns:
        ``temperature``; ``log_loss`` and ``calibration_error`` of the other images, and ``..._scaled`` after division by the temperature.

    Raises:
        ModelError: logits contain NaN or infinity, or are not one per class.
    """
    fitted = fit_temperature(validation_logits, validation_targets)
    scores, labels = checked(logits, targets, np.shape(validation_logits)[-1])
    found = [Measurement("temperature", fitted.value, "", len(np.asarray(validation_targets)), False, fitted.low, fitted.high)]
    for suffix, divisor in (("", 1.0), ("_scaled", fitted.value)):
        error = calibration_error(probabilities(scores / divisor), labels)
        found.append(nats(f"log_loss{suffix}", len(labels), log_loss(scores / divisor, labels)))
        found.append(percent(f"calibration_error{suffix}", len(labels), error, higher_is_better=False))
    return {m.name: m for m in found}


@dataclass(frozen=True)
class ReliabilityBin:
    """The images in one confidence bin of a reliability diagram.

    Args:
        confidence: mean confidence (highest probability), 0 to 1.
        accuracy: accuracy, 0 to 1, with Wilson's interval.
        n: number of images.
    """

    confidence: float
    accuracy: Interval
    n: int


def reliability(logits: npt.ArrayLike, targets: npt.ArrayLike) -> list[ReliabilityBin]:
    """Return confidence and accuracy in the bins of the calibration error; empty bins are omitted.

    Args:
        logits: ``(N, classes)``, divided by a temperature or not.
        targets: class indices ``(N,)``.

    Raises:
        ModelError: the logits contain NaN or infinity, or are not ``(N, classes)``.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    probs = probabilities(scores)
    bins, right = confidence_bins(probs), probs.argmax(axis=1) == labels
    members = [bins == number for number in np.unique(bins)]
    return [ReliabilityBin(float(probs[rows].max(axis=1).mean()), share(right[rows]), int(rows.sum())) for rows in members]
