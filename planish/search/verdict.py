"""The outcome of a run in a sentence, and by how much it misses its goal. The report recomputes both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planish.evaluation.latency import verdict as speed_verdict
from planish.goal import Goal
from planish.measurement import Measurement, Metric, digits_of, size_change
from planish.search.choice import (
    describe_doubt,
    describe_miss,
    format_drop,
    format_risk,
    limit,
    misses,
    nearest_miss,
    risk_of,
)
from planish.search.result import CandidateResult


def verdict(ratio: Measurement, noise_floor: Measurement, size_ratio: float, drop: Measurement, metric: str | Metric) -> str:
    """Summarize speed-up, size and drop in one sentence.

    Args:
        ratio: latency of the original divided by that of the chosen model.
        noise_floor: noise floor of the same timing session.
        size_ratio: size of the original file divided by that of the chosen file.
        drop: drop on test.
        metric: the primary metric; a name is enough if it is in percent and higher is better.
    """
    assert drop.low is not None
    assert drop.high is not None
    digits = 2 if speed_verdict(ratio, noise_floor) == "no difference" else 1
    speed = f"{ratio.value:.{digits}f}x [{ratio.low:.{digits}f}, {ratio.high:.{digits}f}] as fast as the original"
    speed += ", which is no difference" if digits == 2 else ""
    change = f"{Metric.named(metric).worse(drop.value)} on test"
    low, high = sorted((drop.low, drop.high)) if drop.value >= 0 else sorted((-drop.low, -drop.high))
    digits = digits_of(drop.unit, drop.value)
    nothing = ", which is no difference" if drop.low <= 0 <= drop.high else ""
    return f"The chosen model is {speed}, {_size(size_ratio)}, and {change} [{low:.{digits}f}, {high:.{digits}f}]{nothing}."


def _size(ratio: float) -> str:
    times, word = size_change(ratio)
    return word if times == 1 else f"{times:.{1 if times >= 2 else 2}f}x {word}"


def reasons(chosen: CandidateResult, others: Sequence[CandidateResult], goal: Goal) -> str:
    """Describe why a candidate was chosen, and the fastest one that was passed over because there are too few validation images.

    Empty if an original was chosen.

    Args:
        chosen: the chosen candidate.
        others: all measured candidates, including the chosen one.
        goal: the limits.
    """
    if (risk := chosen.measurements.get("drop_risk")) is None:
        return ""
    unit = chosen.measurements["drop_validation"].unit
    worse = f"losing more than {limit(goal, unit)}" if unit == "points" else f"being more than {limit(goal, unit)} worse"
    if doubt := describe_doubt(chosen, goal):
        text = f"No candidate has an accepted risk; the chosen one has the smallest, or hardly more: {doubt}."
    else:
        text = f"The risk of {worse} on new images is {format_risk(risk)} by {risk.n:,} validation images; "
        text += f"at most {100 * goal.risk:g} % is accepted."
    faster = [c for c in others if c.measurements["latency_ms"].value < chosen.measurements["latency_ms"].value and not misses(c, goal)]
    passed = min((c for c in faster if risk_of(c) > goal.risk), key=lambda c: c.measurements["latency_ms"].value, default=None)
    if passed is None:
        return text
    m = passed.measurements
    amount = format_drop(m["drop_validation"].value, unit)
    gain = m["latency_ratio"].value / chosen.measurements["latency_ratio"].value  # each relative to the original in its own session
    return (
        f"{text} Passed over: {passed.summary}, {gain:.1f}x as fast as the chosen model with a drop of {amount}: "
        f"{describe_doubt(passed, goal)}."
    )


def shortfall(chosen: CandidateResult, others: Sequence[CandidateResult], goal: Goal, drop: Measurement) -> str:
    """Describe by how much the nearest candidate misses the goal; empty if the chosen one meets it.

    Args:
        chosen: the chosen candidate, with the latency from the session after the choice.
        others: all measured candidates, including the chosen one.
        goal: the limits.
        drop: drop of the chosen candidate on test.
    """
    if misses(chosen, goal):
        nearest = nearest_miss(others, goal) or chosen
        if not misses(nearest, goal):
            return (
                "The chosen model was within every limit when it was chosen, but not when it was timed once more: "
                f"{describe_miss(chosen, goal)}."
            )
        return (
            f"Nothing met every limit on validation. The nearest is {nearest.summary} in {nearest.runtime}: {describe_miss(nearest, goal)}."
        )
    over = replace(drop, value=drop.value - goal.max_drop_points)
    amount = format_drop(over.value, over.unit)
    more = f"it loses {amount} more" if over.unit == "points" else f"it is worse by {amount} more"
    return f"On validation it is within every limit, but on test {more} than allowed." if over.value > 0 else ""
