"""Similarity of two arrays of outputs, one of them from a model that rounds, relative to the differences between images.

The logits of many networks have a large part in common for all images. An error that is small relative to the largest logit may still be
larger than the differences between images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_NOTHING = 1e-10  # of the power of all values; images whose outputs differ by less count as equal
_CLEARLY = 4.0  # times the noise: margin above which noise does not change the predicted class


@dataclass(frozen=True)
class OutputSimilarity:
    """The similarity of one output over several images.

    Args:
        snr_db: signal-to-noise ratio, the power of the expected values over that of the differences; infinite if there are none.
        correlation: of found and expected values after subtracting the mean over the images; None if the images do not differ.
        scale: standard deviation of the found values over that of the expected ones, after the same subtraction; None likewise.
    """

    snr_db: float
    correlation: float | None = None
    scale: float | None = None

    @property
    def noise(self) -> float:
        """The power of the uncorrelated part over that of the correlated; infinite without correlation, 0 if the images do not differ."""
        if self.correlation is None:
            return 0.0
        return 1 / self.correlation**2 - 1 if self.correlation > 0 else float("inf")


def likeness(expected: Any, found: Any) -> OutputSimilarity:
    """Compare two arrays; if ``found`` is not finite, the similarity is the lowest possible.

    Args:
        expected: ``(N, ...)``.
        found: of the same shape.
    """
    expected, found = _rows(expected), _rows(found)
    if not np.isfinite(found).all():
        return OutputSimilarity(-np.inf, 0.0, 0.0)
    snr_db = _db(np.square(expected).sum(), np.square(found - expected).sum())
    ours, theirs = expected - expected.mean(0), found - found.mean(0)
    power, other = float(np.square(ours).sum()), float(np.square(theirs).sum())
    if power <= _NOTHING * float(np.square(expected).sum()):
        return OutputSimilarity(snr_db)
    correlation = float((ours * theirs).sum()) / np.sqrt(power * other) if other > 0 else 0.0
    return OutputSimilarity(snr_db, float(correlation), float(np.sqrt(other / power)))


def agreement(expected: Any, found: Any, noise: float) -> float | None:
    """The share of images with the expected top-1 class, among those whose margin is much larger than the noise.

    Args:
        expected: logits ``(N, classes)``.
        found: likewise.
        noise: power of the noise allowed, relative to that of the differences between images.

    Returns:
        The share; None if there are fewer than two classes, or no image has a clear prediction.
    """
    if np.ndim(expected) != 2 or np.shape(expected)[1] < 2:
        return None
    expected, found = _rows(expected), _rows(found)
    second, first = np.sort(expected, axis=1)[:, -2:].T
    clear = first - second > _CLEARLY * np.sqrt(noise * np.square(expected - expected.mean(0)).mean())
    return float((expected.argmax(1) == found.argmax(1))[clear].mean()) if clear.any() else None


def _rows(values: Any) -> Floats:
    rows: Floats = np.asarray(values, np.float64).reshape(len(values), -1)
    return rows


def _db(signal: float, noise: float) -> float:
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")
