"""Selection of the candidate to deploy, by validation score, latency and size; the test split is not used here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from planish.evaluation.statistics.drop_risk import images_needed
from planish.goal import Goal
from planish.measurement import Measurement, digits_of
from planish.search.result import CandidateResult

_STANDARD_ERRORS_IN_INTERVAL = 2 * 1.96
_HARDLY_MORE = 0.25  # difference between risks, relative to the accepted risk, that is about one image of a few hundred
_LEAST_POINTS = 0.1  # divisor when the maximum drop is 0


def standard_error(drop: Measurement) -> float:
    """Return the standard error of a drop, from its interval; 0 if it is exact."""
    return 0.0 if drop.low is None or drop.high is None else (drop.high - drop.low) / _STANDARD_ERRORS_IN_INTERVAL


def drop_upper_bound(drop: Measurement, goal: Goal) -> float:
    """Return what the drop on new images exceeds with the accepted risk, by the normal distribution; trials are ranked by it."""
    return drop.value + float(stats.norm.isf(goal.risk)) * standard_error(drop)


def upper_end(measurement: Measurement) -> float:
    """Return the upper end of the interval; the value itself if it is exact."""
    return measurement.value if measurement.high is None else measurement.high


def lower_end(measurement: Measurement) -> float:
    """Return the lower end of the interval; the value itself if it is exact."""
    return measurement.value if measurement.low is None else measurement.low


def risk_of(candidate: CandidateResult) -> float:
    """Return the risk, 0 to 1, that the candidate's drop on new images is above the limit; 0 for the original."""
    risk = candidate.measurements.get("drop_risk")
    return 0.0 if risk is None else risk.value / 100


def misses(candidate: CandidateResult, goal: Goal) -> dict[str, float]:
    """Return by how much the candidate exceeds each limit, as a fraction of the limit; empty if it meets them all.

    For latency the upper end of the confidence interval must be within the limit; for the drop the point estimate is used, and
    ``choose_candidate`` limits the risk that it is larger on new images.
    """
    found = {}
    drop = candidate.measurements["drop_validation"].value
    if drop > goal.max_drop_points:
        found["accuracy"] = (drop - goal.max_drop_points) / max(goal.max_drop_points, _LEAST_POINTS * goal.point)
    latency = upper_end(candidate.measurements["latency_ms"])
    if goal.max_latency_ms is not None and latency > goal.max_latency_ms:
        found["latency"] = latency / goal.max_latency_ms - 1
    size = candidate.measurements["size_bytes"].value
    if goal.max_size_bytes is not None and size > goal.max_size_bytes:
        found["size"] = size / goal.max_size_bytes - 1
    return found


def choose_candidate(candidates: Sequence[CandidateResult], original: CandidateResult, goal: Goal) -> CandidateResult:
    """Return the fastest measured candidate that meets every limit, and whose drop on new images is likely enough within its limit.

    Its risk must be at most ``goal.risk``, because a drop is measured on few images, and the best of several appears better than it is. If
    there is no such candidate, the fastest is returned whose risk is hardly above the smallest one; docs/decisions/0108 compares this with
    other rules.

    A candidate that is shown to be slower than the original is not chosen if the original meets every limit itself. If none meets every
    limit, return the candidate (or original) within the accuracy limit that exceeds the other limits least; if none is within the accuracy
    limit, return the original.
    """
    measured = [c for c in candidates if c.stage == "measured"]
    enough = math.inf if misses(original, goal) else upper_end(original.measurements["latency_ms"])
    meeting = [c for c in measured if not misses(c, goal) and lower_end(c.measurements["latency_ms"]) <= enough]
    if meeting:
        least = min(map(risk_of, meeting))
        accepted = goal.risk if least <= goal.risk else least + _HARDLY_MORE * goal.risk
        return min((c for c in meeting if risk_of(c) <= accepted), key=lambda c: c.measurements["latency_ms"].value)
    accurate = [c for c in [*measured, original] if "accuracy" not in misses(c, goal)]
    if not accurate:
        return original
    return min(accurate, key=lambda c: (max(misses(c, goal).values(), default=0.0), c.measurements["latency_ms"].value))


def nearest_miss(candidates: Sequence[CandidateResult], goal: Goal) -> CandidateResult | None:
    """Return the measured candidate whose largest excess over a limit is smallest; None if nothing was measured."""
    measured = [c for c in candidates if c.stage == "measured"]
    return min(measured, key=lambda c: max(misses(c, goal).values(), default=0.0), default=None)


def frontier(candidates: Sequence[CandidateResult]) -> list[CandidateResult]:
    """Return the Pareto frontier of the measured candidates and baselines in drop, latency and size, fastest first."""
    measured = [c for c in candidates if c.stage in ("measured", "baseline")]

    def axes(c: CandidateResult) -> tuple[float, float, float]:
        m = c.measurements
        return m["drop_validation"].value, m["latency_ms"].value, m["size_bytes"].value

    def beaten(c: CandidateResult) -> bool:
        mine = axes(c)
        return any(axes(o) != mine and all(a <= b for a, b in zip(axes(o), mine, strict=True)) for o in measured)

    return sorted((c for c in measured if not beaten(c)), key=lambda c: c.measurements["latency_ms"].value)


def format_drop(amount: float, unit: str) -> str:
    """Format a drop: ``0.50 points``, ``0.012 mm``."""
    return f"{amount:,.{digits_of(unit, amount)}f} {unit}".rstrip()


def limit(goal: Goal, unit: str) -> str:
    """Format the largest accepted drop: ``1 point``, ``0.5 points``, ``0.5 mm``."""
    return f"{goal.max_drop_points:g} {'point' if unit == 'points' and goal.max_drop_points == 1 else unit}".rstrip()


def format_risk(risk: Measurement) -> str:
    """Format a risk: ``18 %``, ``3.2 %``, ``less than 0.1 %``."""
    return "less than 0.1 %" if risk.value < 0.1 else f"{risk.value:.2g} %"


def describe_doubt(candidate: CandidateResult, goal: Goal) -> str:
    """Describe that the risk is above the accepted one, and the number of images that would tell; empty if it is not.

    For example ``393 validation images cannot tell whether it stays within 1 point: the risk is 24 %, at most 20 % is accepted; about 710
    would tell``.
    """
    if risk_of(candidate) <= goal.risk:
        return ""
    risk, within = candidate.measurements["drop_risk"], limit(goal, candidate.measurements["drop_validation"].unit)
    needed = images_needed(risk_of(candidate), goal.risk, risk.n)
    more = f"about {needed:,.0f} would" if math.isfinite(needed) else "a million would not either"
    return (
        f"{risk.n:,} validation images cannot tell whether it stays within {within}: the risk is {format_risk(risk)}, at most "
        f"{100 * goal.risk:g} % is accepted; {more}"
    )


def loss(drop: Measurement) -> str:
    """Describe a drop: ``it loses 0.50 points``, ``it is 0.012 mm worse``."""
    amount = format_drop(drop.value, drop.unit)
    return f"it loses {amount}" if drop.unit == "points" else f"it is {amount} worse"


def describe_miss(candidate: CandidateResult, goal: Goal) -> str:
    """Describe the limits that the candidate exceeds: ``it takes 6.1 ms, 1.1 ms over the limit of 5 ms``; empty if it meets them all."""
    m, words = candidate.measurements, []
    found = misses(candidate, goal)
    if "accuracy" in found:
        lost = m["drop_validation"]
        words.append(f"{loss(lost)} on validation, {format_drop(lost.value - goal.max_drop_points, lost.unit)} more than allowed")
    if "latency" in found and goal.max_latency_ms is not None:
        value, limit = m["latency_ms"].value, goal.max_latency_ms
        by_value = f"{value - limit:.3g} ms over the limit of {limit:.3g} ms"
        by_interval = (
            f"by its interval up to {upper_end(m['latency_ms']):.3g} ms, so it is not shown to stay within the limit of {limit:.3g} ms"
        )
        words.append(f"it takes {value:.3g} ms, {by_value if value > limit else by_interval}")
    if "size" in found and goal.max_size_bytes is not None:
        value = m["size_bytes"].value
        over = (value - goal.max_size_bytes) / 1e6
        words.append(f"it has {value / 1e6:.3g} MB, {over:.3g} MB over the limit of {goal.max_size_bytes / 1e6:.3g} MB")
    return " and ".join(words)
