"""The cost of each kind of error with confidence intervals, for one model or compared with another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from planish.evaluation.statistics.intervals import Floats
from planish.measurement import Measurement

Lost = Mapping[str, tuple[int, Floats]]


def costs(lost: Lost, images: int, against: Lost | None = None) -> dict[str, Measurement]:
    """Return the points lost to each kind of error with their interval, ``lost_to_<kind>``; ``n`` is the number of errors.

    Args:
        lost: for each kind, the number of errors, and the points that they cost: on all images first, then in each resample ``(R,)``.
        images: number of images.
        against: the same for another model, with the same resamples. The measurements are then differences, how many more points are lost
            than by that model, and ``n`` is ``images``.
    """
    found = {}
    for kind, (count, draws) in lost.items():
        n, points = (count, draws) if against is None else (images, draws - against[kind][1])
        value, (low, high) = float(points[0]), np.nanpercentile(points[1:], [2.5, 97.5])
        found[kind] = Measurement(f"lost_to_{kind}", value, "points", n, False, float(min(low, value)), float(max(high, value)))
    return found
