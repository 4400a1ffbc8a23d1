"""Choosing by a metric that is not in percent, and of which less is better."""

from __future__ import annotations

import pytest

from planish.measurement import Measurement, Metric
from planish.plan import Plan
from planish.report import formatting as words
from planish.report.terminal import candidate_table
from planish.search.choice import choose_candidate, describe_miss, frontier, limit, misses
from planish.search.proposals import Level, Trial, expected_drop, interpolated_level, next_stronger, priority
from planish.search.result import CandidateResult, Goal
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


def trial(drop: float, latency: float = 5.0, speedup: float = 2.0, unit: float = 1.0) -> Trial:
    measurements = {
        "latency_ratio": Measurement("latency_ratio", 10 / latency, "ratio", 9, True),
        "latency_ms": Measurement("latency_ms", latency, "ms", 9, False),
        "drop_calibration": Measurement("drop_calibration", unit * drop, "mm", 9, False),
    }
    return Trial(Level(speedup), Plan(), measurements=measurements, history=((10.0, unit * drop),))


@pytest.mark.parametrize("unit", [1.0, 0.01, 300.0])
def test_the_search_decides_alike_in_any_unit(unit: float) -> None:
    goal, points = Goal(1.0 * unit, point=unit), Goal(1.0)
    scaled, plain = (trial(3.0, unit=scale) for scale in (unit, 1.0))
    assert priority(scaled, 3.0 * unit, goal) == pytest.approx(priority(plain, 3.0, points))
    assert expected_drop(scaled, [scaled], 20.0, unit) == pytest.approx(unit * expected_drop(plain, [plain], 20.0))
    untrained = Trial(Level(1.5), Plan())
    assert expected_drop(untrained, [scaled], 20.0, unit) == pytest.approx(unit * expected_drop(untrained, [plain], 20.0))
    assert interpolated_level([scaled], 20.0, goal) == pytest.approx(interpolated_level([plain], 20.0, points))
    for drop in (10.0, 20.0):
        assert next_stronger([trial(drop, unit=unit)], unit) == next_stronger([trial(drop)])
    assert misses(candidate("c", 1, 0.0, 3.0 * unit), Goal(0.0, point=unit))["accuracy"] == pytest.approx(30.0)
