"""How like two sets of numbers are where values were rounded on the way: judged by what distinguishes the images, not by the largest value.

The logits of many networks have much in common for all images. An error that is small beside the largest logit may still be larger than
anything that tells one image from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_NOTHING = 1e-10  # of the power of all values: images that differ by less do not differ
_CLEARLY = 4.0  # times the noise: by so much the first answer leads where noise does not change it


@dataclass(frozen=True)
class Likeness:
    """Of one output on several images.

    Args:
        snr_db: power of the expected values over that of the differences (signal-to-noise ratio); infinite where there are none.
        correlation: of found and expected values, each less its mean over the images; None where the images do not differ.
        scale: standard deviation of the found values over that of the expected ones, likewise less the means; None likewise.
    """

    snr_db: float
    correlation: float | None = None
    scale: float | None = None

    @property
    def noise(self) -> float:
        """Power of what is uncorrelated over that of what is; infinite where nothing is. 0 where the images do not differ."""
        if self.correlation is None:
            return 0.0
        return 1 / self.correlation**2 - 1 if self.correlation > 0 else float("inf")


def likeness(expected: Any, found: Any) -> Likeness:
    """Compare numbers; what is not finite is like nothing.

    Args:
        expected: ``(N, ...)``.
        found: of the same shape.
    """
    expected, found = _rows(expected), _rows(found)
    if not np.isfinite(found).all():
        return Likeness(-np.inf, 0.0, 0.0)
    snr_db = _db(np.square(expected).sum(), np.square(found - expected).sum())
    ours, theirs = expected - expected.mean(0), found - found.mean(0)
    power, other = float(np.square(ours).sum()), float(np.square(theirs).sum())
    if power <= _NOTHING * float(np.square(expected).sum()):
        return Likeness(snr_db)
    correlation = float((ours * theirs).sum()) / np.sqrt(power * other) if other > 0 else 0.0
    return Likeness(snr_db, float(correlation), float(np.sqrt(other / power)))


def agreement(expected: Any, found: Any, noise: float) -> float | None:
    """Share of the images with the same largest value as expected, of those where it leads by far more than the noise.

    Args:
        expected: logits ``(N, classes)``.
        found: likewise.
        noise: power that differences may have, over that of what distinguishes the images.

    Returns:
        None where there are no two classes to choose from, or no image has a clear answer.
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
