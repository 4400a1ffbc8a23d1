"""What the search makes of a first look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planish.compression import BlockPruning, ChannelPruning, LatencyPruning, Resolution
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.proposals import (
    LEVELS,
    Level,
    Trial,
    expected_drop,
    interpolated_level,
    level_for_latency,
    next_milder,
    next_stronger,
    priority,
    safest_trial,
    select_spread,
)

TIMED = LatencyPruning(speedup=2)


def trial(speedup: float, ms: float, drop: float, seconds: float = 100, size: int = 1000) -> Trial:
    measurements = {
        "latency_ms": Measurement("latency_ms", ms, "ms", 50, False),
        "latency_ratio": Measurement("latency_ratio", 8 / ms, "ratio", 50, True),
        "size_bytes": Measurement("size_bytes", size, "bytes", 1, False),
    }
    return Trial(Level(speedup), Level(speedup).plans(TIMED)[0], measurements=measurements, history=((seconds, drop),))


def test_levels_are_all_different_and_each_does_something() -> None:
    assert len({level.plans(TIMED)[0].key for level in LEVELS}) == len(LEVELS)
    assert all(plan.steps for level in LEVELS for plan in level.plans(TIMED))


def test_where_timed_pruning_is_refused_an_equal_share_is_tried() -> None:
    assert Level(2.0, 0.75).plans(TIMED) == [
        Plan(LatencyPruning(speedup=2), Resolution(scale=0.75)),
        Plan(ChannelPruning(pruning_ratio=0.5), Resolution(scale=0.75)),
    ]
    assert Level(1.0, 0.5).plans(TIMED) == [Plan(Resolution(scale=0.5))]
    assert Level(1.0, blocks=0.5).plans(TIMED) == [Plan(BlockPruning(pruning_ratio=0.5))]
    assert [step.name for step in Level(2.0, blocks=0.3).plans(TIMED)[0].steps] == ["block_pruning", "latency_pruning"]


def test_a_goal_in_milliseconds_is_aimed_at_by_what_was_measured() -> None:
    """With 1 ms that pruning leaves alone and 4 ms of layers, 2 ms want the layers 4x as fast."""
    measured = [trial(speedup, 1 + 4 / speedup, 5) for speedup in (1.5, 2.5, 6)]
    level = level_for_latency(2.0, measured)
    assert level is not None
    assert level.resolution == 1
    assert 1 + 4 / level.speedup == pytest.approx(0.94 * 2, rel=0.01)
    assert level_for_latency(0.9, measured) is None, "no pruning reaches it"
    assert level_for_latency(1.01 / 0.94, measured) is None, "400x as fast is no level, and would remove all channels"
    assert level_for_latency(6.0, measured) is None, "nothing has to be pruned for it"
    assert level_for_latency(1 + 4 / 2.5, measured) is None, "one is there already"
    assert level_for_latency(2.0, measured[:1]) is None
    assert level_for_latency(2.0, [trial(2, 1, 5), trial(4, 2, 5)]) is None, "times that make no sense"


def looked(speedup: float, points: float) -> Trial:
    """Looked at before any training."""
    found = trial(speedup, 8 / speedup, 0)
    drop = Measurement("drop_calibration", points, "points", 500, False)
    return replace(found, measurements={**found.measurements, "drop_calibration": drop})


def test_pruning_becomes_milder_while_it_takes_much_of_what_the_network_knows() -> None:
    assert next_milder([looked(4, 35), looked(2.5, 30)], 40) == Level(1.58)
    assert next_milder([looked(2.5, 30), looked(1.58, 19)], 40) is None, "less than half"
    assert next_milder([looked(1.2, 30)], 40) is None, "milder is hardly faster"
    assert next_milder([], 40) is None


def test_what_there_is_little_time_for_is_the_fastest_that_keeps_three_quarters() -> None:
    hard, fair, mild = looked(4, 15), looked(2, 9), looked(1.5, 5)
    assert safest_trial([hard, mild, fair], 40) is fair
    assert safest_trial([looked(4, 35), looked(2.5, 30)], 40).level.speedup == 2.5, "none keeps so much: the one that keeps most"


def test_pruning_goes_further_while_it_costs_hardly_anything() -> None:
    assert next_stronger([looked(2, 0), looked(4, 5)]) == Level(6.0)
    assert next_stronger([looked(2, 0), looked(4, 30)]) is None
    assert next_stronger([looked(24, 1)]) is None
    assert next_stronger([]) is None
    refused = replace(looked(6, 3), plan=Plan(ChannelPruning(pruning_ratio=0.83)))
    assert next_stronger([looked(4, 3), refused]) is None, "an equal share everywhere was tried in place of timed layers"


def test_the_first_rung_spans_from_fast_to_slow_and_leaves_out_what_others_beat() -> None:
    slow, middle, fast = trial(1.5, 4, 5), trial(2, 2, 50), trial(4, 1, 75)
    beaten = trial(3, 3, 70)
    assert select_spread([fast, beaten, slow, middle], 3) == [fast, middle, slow]
    assert select_spread([fast, beaten, slow, middle], 2) == [fast, slow]
    assert select_spread([fast, beaten, slow, middle], 1) == [middle]
    assert set(select_spread([fast, beaten, slow, middle], 4)) == {fast, beaten, slow, middle}
    assert select_spread([slow], 3) == [slow]
    student = replace(trial(1, 1.5, 9), level=Level(student="resnet8"))
    assert select_spread([fast, beaten, slow, middle, student], 3) == [fast, slow, student]
    assert select_spread([], 0) == []


def test_what_was_not_trained_is_expected_between_its_neighbours() -> None:
    mild, severe, untried, fastest = trial(1.5, 4, 1), trial(4, 1, 9), trial_of(2), trial_of(6)
    interpolated_level = expected_drop(untried, [severe, mild])
    assert interpolated_level == pytest.approx(9 ** ((1 / 4 - 1 / 9) / (9 / 16 - 1 / 9)))
    assert expected_drop(mild, [severe, mild]) == 1
    assert expected_drop(fastest, [severe, mild]) == pytest.approx(9)


def test_a_level_between_is_proposed_where_none_is_expected_to_stay_within_the_limit() -> None:
    """0.6 points are wanted; from 0.1 to 3.6 that is half of the way on a log scale, and severity is (1 - 1 / 2)^2 at twice the speed."""
    strong, stronger = trial(2, 2, 3.6), trial(4, 1, 9)
    found = interpolated_level([strong, stronger], 0, Goal(max_drop_points=1))
    assert found == pytest.approx(1 / (1 - (0.5 * 0.25) ** 0.5), abs=0.01)
    assert expected_drop(trial_of(found), [strong, stronger]) == pytest.approx(0.6, rel=0.05)
    assert interpolated_level([trial(2, 2, 0.9), stronger], 0, Goal(max_drop_points=1)) == 0, "one stays within"
    assert interpolated_level([strong], 1000, Goal(max_drop_points=5)) == 0
    assert interpolated_level([trial(1.15, 7, 50)], 0, Goal(max_drop_points=1)) == 0, "milder is hardly faster"
    assert interpolated_level([strong], 0, Goal(max_drop_points=0)) == 0
    assert interpolated_level([], 0, Goal(max_drop_points=1)) == 0


def trial_of(speedup: float) -> Trial:
    return replace(trial(speedup, 3, 0), history=())


def test_milder_than_all_that_was_trained_is_expected_to_lose_less() -> None:
    untried = trial_of(1.5)
    tried = trial(4, 2, 9)
    assert 0.1 < expected_drop(untried, [tried]) < 2
    assert expected_drop(tried, [tried]) == 9


def test_a_drop_is_expected_to_shrink_with_training_as_it_did_before() -> None:
    usual = trial(2, 2, 4)
    quick, slow = (replace(usual, history=((50, before), (100, 4.0))) for before in (6.0, 4.2))
    assert expected_drop(usual, [usual], 100) == pytest.approx(4 * 0.75)
    assert expected_drop(quick, [quick], 100) == pytest.approx(4 * 4 / 6)
    assert expected_drop(slow, [slow], 300) == pytest.approx(4 * 0.95**2)
    assert expected_drop(quick, [quick]) == 4.0
    gained = trial(2, 2, -1)
    assert expected_drop(gained, [gained], 100) == -1


def test_a_student_is_expected_by_its_own_training_only() -> None:
    student = Trial(Level(student="resnet8"), Level(student="resnet8").plans(TIMED)[0])
    assert expected_drop(student, [trial(2, 2, 1)]) == float("inf")
    student = replace(student, history=((100, 3.0),))
    assert expected_drop(student, [student]) == 3.0
    assert expected_drop(trial(2, 2, 0), [student, trial(2, 2, 1)]) == 0
    assert expected_drop(trial_of(2), [student, trial(2, 2, 1)]) == pytest.approx(1)


def test_twice_as_fast_is_worth_one_and_accuracy_beyond_the_limit_costs() -> None:
    goal = Goal(max_drop_points=1)
    assert priority(trial(2, 2, 0), 0, goal) - priority(trial(2, 4, 0), 0, goal) == pytest.approx(1)
    assert priority(trial(2, 2, 1), 1, goal) - priority(trial(2, 2, 2.4), 2.4, goal) == pytest.approx(2)
    assert priority(trial(2, 2, 0.5), 0.5, goal) == priority(trial(2, 2, -3), -3, goal), "below the limit nothing is gained"


def test_missing_the_goal_costs_more_than_speed_brings() -> None:
    goal = Goal(max_drop_points=1, max_latency_ms=2, max_size_bytes=1000)
    assert priority(trial(2, 2, 0), 0, goal) > priority(trial(2, 2.5, -1), -1, goal)
    assert priority(trial(2, 2, 0, size=1000), 0, goal) > priority(trial(2, 1.5, 0, size=1500), 0, goal)
