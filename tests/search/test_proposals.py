"""The levels that a search tries, and how it ranks trials."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planish.compression import BlockPruning, ChannelPruning, LatencyPruning, Resolution
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.trials.proposals import FIRST_LEVELS, GRID, Level, Trial, priority

TIMED = LatencyPruning(speedup=2)


def trial(speedup: float, ms: float, size: int = 1000) -> Trial:
    measurements = {
        "latency_ms": Measurement("latency_ms", ms, "ms", 50, False),
        "size_bytes": Measurement("size_bytes", size, "bytes", 1, False),
        "drop_untrained": Measurement("drop_untrained", 7, "points", 100, False),
    }
    return Trial(Level(speedup), Level(speedup).plans(TIMED)[0], measurements=measurements, gain=8 / ms)


def test_levels_are_all_different_and_each_does_something() -> None:
    everything = {*FIRST_LEVELS, *GRID}
    assert len({level.plans(TIMED)[0].key for level in everything}) == len(everything)
    assert all(plan.steps for level in everything for plan in level.plans(TIMED))
    assert Level(1.3, 0.875) in everything
    assert min(1 / level.share for level in everything) > 1.1


def test_where_timed_pruning_is_refused_an_equal_share_is_tried() -> None:
    assert Level(2.0, 0.75).plans(TIMED) == [
        Plan(LatencyPruning(speedup=2), Resolution(scale=0.75)),
        Plan(ChannelPruning(pruning_ratio=0.5), Resolution(scale=0.75)),
    ]
    assert Level(1.0, 0.5).plans(TIMED) == [Plan(Resolution(scale=0.5))]
    assert Level(1.0, blocks=0.5).plans(TIMED) == [Plan(BlockPruning(pruning_ratio=0.5))]
    assert [step.name for step in Level(2.0, blocks=0.3).plans(TIMED)[0].steps] == ["block_pruning", "latency_pruning"]


def test_a_trial_has_the_drop_of_its_last_training() -> None:
    fresh = trial(2, 2)
    assert fresh.drop is None
    assert fresh.last_drop.value == 7
    rounds = tuple((steps, Measurement("drop", points, "points", 500, False)) for steps, points in ((100.0, 3.0), (300.0, 2.0)))
    assert replace(fresh, history=rounds).drop == rounds[1][1] == replace(fresh, history=rounds).last_drop


def test_twice_as_fast_is_worth_one_and_accuracy_beyond_the_limit_costs() -> None:
    goal = Goal(max_drop_points=1)
    assert priority(trial(2, 2), 0, goal) - priority(trial(2, 4), 0, goal) == pytest.approx(1)
    assert priority(trial(2, 2), 1, goal) - priority(trial(2, 2), 2.4, goal) == pytest.approx(2)
    assert priority(trial(2, 2), 0.5, goal) == priority(trial(2, 2), -3, goal), "below the limit nothing is gained"


def test_missing_the_goal_costs_more_than_speed_brings() -> None:
    goal = Goal(max_drop_points=1, max_latency_ms=2, max_size_bytes=1000)
    assert priority(trial(2, 1.8), 0, goal) > priority(trial(2, 2.5), -1, goal)
    assert priority(trial(2, 2, size=1000), 0, goal) > priority(trial(2, 1.5, size=1500), 0, goal)
