"""Choosing by a metric that is not in percent, and of which less is better."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from torch import nn

from planish.artifact import InputSpec
from planish.measurement import Measurement, Metric
from planish.plan import Plan
from planish.report import formatting as words
from planish.report.terminal import candidate_table
from planish.search.choice import choose_candidate, describe_miss, frontier, limit, misses
from planish.search.result import CandidateResult, Goal
from planish.search.state import RuntimeVariant, Search
from planish.search.trials.forecast import Forecast
from planish.search.trials.proposals import Level, Trial, priority
from planish.search.verdict import shortfall, verdict

ERROR = Metric("mean_absolute_error", "mm", higher_is_better=False)
GOAL = Goal(max_drop_points=0.05, point=0.01)


def candidate(key: str, latency: float, before: float, after: float, stage: str = "measured") -> CandidateResult:
    """Of a model whose mean error was ``before`` and is ``after``."""
    drop = ERROR.drop((before - after, before - after - 0.001, before - after + 0.001), 50, "drop_validation")
    measurements = {
        "drop_validation": drop,
        "latency_ms": Measurement("latency_ms", latency, "ms", 9, False, latency, latency),
        "size_bytes": Measurement("size_bytes", 1000.0, "bytes", 1, False),
    }
    return CandidateResult(key, [], key, "onnxruntime", stage, measurements)  # type: ignore[arg-type]


ORIGINAL = candidate("original", 10, 0.3, 0.3, "baseline")
BETTER, WORSE, FAR_WORSE = candidate("better", 5, 0.3, 0.2), candidate("worse", 4, 0.3, 0.34), candidate("far worse", 1, 0.3, 0.5)


def test_what_is_more_wrong_than_allowed_is_not_chosen_however_fast() -> None:
    assert misses(BETTER, GOAL) == {}
    assert misses(WORSE, GOAL) == {}
    assert misses(FAR_WORSE, GOAL) == {"accuracy": pytest.approx((0.2 - 0.05) / 0.05)}
    assert choose_candidate([BETTER, WORSE, FAR_WORSE], ORIGINAL, GOAL).key == "worse"
    assert choose_candidate([BETTER, FAR_WORSE], ORIGINAL, GOAL).key == "better"
    assert choose_candidate([FAR_WORSE], ORIGINAL, GOAL).key == "original"


def test_the_frontier_prefers_small_errors() -> None:
    slow = candidate("slow and worse", 6, 0.3, 0.35)
    assert [c.key for c in frontier([BETTER, WORSE, FAR_WORSE, slow])] == ["far worse", "worse", "better"]


def test_sentences_have_the_unit_and_the_right_direction() -> None:
    assert describe_miss(FAR_WORSE, GOAL) == "it is 0.200 mm worse on validation, 0.150 mm more than allowed"
    ratio, floor = Measurement("latency_ratio", 2.0, "ratio", 9, True, 1.9, 2.1), Measurement("noise_floor", 1.0, "%", 9, False)
    said = [verdict(ratio, floor, 2.0, c.measurements["drop_validation"], ERROR) for c in (WORSE, BETTER)]
    assert "has 0.0400 mm more mean absolute error on test [0.0390, 0.0410]" in said[0]
    assert "has 0.100 mm less mean absolute error on test [0.099, 0.101]" in said[1]
    assert shortfall(WORSE, [WORSE], GOAL, WORSE.measurements["drop_validation"]) == ""
    over = shortfall(WORSE, [WORSE], GOAL, FAR_WORSE.measurements["drop_validation"])
    assert over.endswith("on test it is worse by 0.150 mm more than allowed.")


def test_changes_say_better_or_worse() -> None:
    worse, better = (c.measurements["drop_validation"] for c in (WORSE, BETTER))
    assert words.change(worse) == "0.0400 worse"
    assert words.change_in_unit(better) == "0.100 mm better"
    assert words.change_interval(worse) == "0.0390 worse to 0.0410 worse"
    assert [str(column.header) for column in candidate_table([BETTER, WORSE]).columns][2] == "mm"
    assert limit(GOAL, "mm") == "0.05 mm"


def trial(speedup: float, before: float, *rounds: float, unit: float = 1.0) -> Trial:
    """A trial with its drops after rounds of 100 steps, in points."""

    def drop(points: float) -> Measurement:
        return Measurement("drop", unit * points, "mm", 9, False, low=unit * (points - 1), high=unit * (points + 1))

    measurements = {
        "latency_ms": Measurement("latency_ms", 8 / speedup, "ms", 9, False),
        "size_bytes": Measurement("size_bytes", 1000, "bytes", 1, False),
        "drop_untrained": drop(before),
    }
    history = tuple((100.0 * (i + 1), drop(points)) for i, points in enumerate(rounds))
    return Trial(Level(speedup), Plan(), measurements=measurements, gain=speedup, history=history)


@pytest.fixture(autouse=True)
def a_step_takes_a_fifth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.search.trials.forecast.training_step_seconds", lambda _: 0.2)


NETWORK = SimpleNamespace(module=nn.Linear(3, 2), input_spec=InputSpec(3, 64, 64))


def forecast(unit: float) -> Forecast:
    """A search of 1,000 images whose original is worth 90 points."""
    kept = trial(1.0, 0.0, unit=unit).measurements | {"drop_validation": Measurement("drop", 0.2 * unit, "mm", 9, False)}
    deployment = RuntimeVariant("int8", "openvino")
    runner = SimpleNamespace(task=SimpleNamespace(split=lambda _: range(1000)), original=NETWORK)
    search = SimpleNamespace(
        runner=runner, trained_before=False, goal=Goal(1.0 * unit, point=unit), deployment=deployment,
        journal=SimpleNamespace(candidates={str(deployment): SimpleNamespace(measurements=kept)}), knowledge=lambda: 90.0 * unit,
    )  # fmt: skip
    mild, strong = trial(1.5, 2.0, 0.1, unit=unit), trial(4.0, 40.0, 9.0, 6.0, unit=unit)
    return Forecast(cast(Search, search), [mild, strong], [mild, strong])


@pytest.mark.parametrize("unit", [0.01, 300.0])
def test_the_search_decides_alike_in_any_unit(unit: float) -> None:
    scaled, plain = forecast(unit), forecast(1.0)
    assert priority(scaled.screened[1], 3.0 * unit, scaled.search.goal) == pytest.approx(
        priority(plain.screened[1], 3.0, plain.search.goal)
    )
    assert scaled.drop_after(scaled.screened[1], 60) == pytest.approx(plain.drop_after(plain.screened[1], 60))
    levels, improvements = zip(*scaled.promising_levels(60, 3), strict=True)
    expected_levels, expected = zip(*plain.promising_levels(60, 3), strict=True)
    assert levels == expected_levels
    assert improvements == pytest.approx(expected)
    assert scaled.best[0] == plain.best[0] > 0
    ours, theirs = (f.within([f.prospect(t) for t in f.screened], [5, 60]) for f in (scaled, plain))
    assert ours == pytest.approx(theirs)
    assert 0 < theirs.mean() < 1
    assert misses(candidate("c", 1, 0.0, 3.0 * unit), Goal(0.0, point=unit))["accuracy"] == pytest.approx(30.0)


def test_a_level_that_was_refused_is_not_proposed_again() -> None:
    known = forecast(1.0)
    [(best, _)] = known.promising_levels(60, 1)
    [(other, improvement)] = replace(known, refused=[best]).promising_levels(60, 1)
    assert other != best
    assert improvement > 0


def test_a_measured_drop_stays_as_lucky_or_unlucky_as_it_was() -> None:
    """The validation images are the same after more training: a network that was unlucky on them is a poor bet."""
    known = forecast(1.0)
    fresh = trial(2.0, 5.0)

    def chance(*rounds: float) -> float:
        mine = trial(2.0, 5.0, *rounds)
        seen = replace(known, screened=[mine, fresh], trained=[mine] if rounds else [])
        return float(seen.within([seen.prospect(mine)], [20.0]).mean())

    assert chance(3.0) < 0.5 * chance() < chance() < chance(0.0)
    assert chance(0.9) < chance(0.2)
