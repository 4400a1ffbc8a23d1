"""What the end of a run is expected to take, held against what it takes in simulated time."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from simulated_time import World, simulate

from planish.search.state import Search
from planish.search.time_estimates import finish_seconds, least_finish_seconds, training_step_seconds

# Each stage slow in turn, so that an estimate that leaves one out is too low by far.
SLOW: list[dict[str, float]] = [{}, {"judging an image": 10}, {"process": 3}, {"to_onnx": 14}, {"evaluating an image": 3}]


def end_of_run(folder: Path, budget: float, stages: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, float]:
    """A search in simulated time.

    Returns:
        Seconds that its end was expected to take at least, those that were reserved for it, and those that it took.
    """
    world, found = World(1000, 1.0, stages), list[float]()
    module = import_module("planish.search.optimize")
    finish = module.finish

    def timed(search: Search, job: Any, trials: Any, *more: Any) -> Any:
        found.extend((least_finish_seconds(search, min(1, len(trials))), finish_seconds(search, len(trials)), world.now))
        return finish(search, job, trials, *more)

    monkeypatch.setattr(module, "finish", timed)
    simulate(folder / "run", world, budget, monkeypatch)
    least, reserved, begun = found
    return least, reserved, world.now - begun


@pytest.mark.parametrize("stages", SLOW, ids=lambda stages: next(iter(stages), "none slow"))
def test_the_end_takes_what_it_was_expected_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: dict[str, float]) -> None:
    least, reserved, took = end_of_run(tmp_path, 470, stages, monkeypatch)
    assert 0.65 * least < took < 1.5 * least  # less if there is only time for one finalist
    assert reserved >= least


def test_a_step_of_training_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch takes as long as running its images five times, as the simulation has it."""
    world, found, module = World(1000), list[float](), import_module("planish.search.optimize")
    finish = module.finish

    def timed(search: Search, job: Any, trials: Any, *more: Any) -> Any:
        begun = world.now
        found.append(training_step_seconds(search) * -(-1000 // search.recovery.batch_size))
        assert world.now == begun, "it was timed before"
        return finish(search, job, trials, *more)

    monkeypatch.setattr(module, "finish", timed)
    simulate(tmp_path / "run", world, 470, monkeypatch)
    assert found == [pytest.approx(5 * world.cost("evaluating an image", 1000), rel=0.01)]
