"""What each kind of error costs, told with intervals, of one model or against another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from planish.evaluation.statistics.intervals import Floats
from planish.measurement import Measurement

Lost = Mapping[str, tuple[int, Floats]]


def costs(lost: Lost, images: int, against: Lost | None = None) -> dict[str, Measurement]:
    """Points with their interval, ``lost_to_<kind>``; ``n`` counts the errors.

    Args:
        lost: of each kind how many errors there are, and the points that they cost: of all images, then of each draw ``(R,)``.
        images: how many there are.
        against: of another model on the same draws. Numbers are then how much more is lost than by that one, and ``n`` is ``images``.
    """
    found = {}
    for kind, (count, draws) in lost.items():
        n, points = (count, draws) if against is None else (images, draws - against[kind][1])
        value, (low, high) = float(points[0]), np.nanpercentile(points[1:], [2.5, 97.5])
        found[kind] = Measurement(f"lost_to_{kind}", value, "points", n, False, float(min(low, value)), float(max(high, value)))
    return found
