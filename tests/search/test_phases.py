"""What the phases of the main job hand on: each takes frozen values and returns new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from simulated_time import World, simulate

from planish.errors import ModelError
from planish.plan import Plan
from planish.runs.runner import Runner
from planish.search.state import Search
from planish.search.trials.screening import Screening

PHASES = ("deploy", "screen", "recover", "finish")
Call = tuple[str, tuple[Any, ...], tuple[Any, ...], Any]  # phase, arguments, what the first one's fields were, result


def shown(value: Any) -> tuple[Any, ...]:
    """Its fields, but for the journal, which is written all the time."""
    return tuple(getattr(value, field.name) for field in fields(value) if field.name != "journal")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Each phase of a search of ten minutes, in simulated time."""
    optimize, found = import_module("planish.search.optimize"), list[Call]()

    def watched(name: str, phase: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            before = shown(arguments[0])
            found.append((name, arguments, before, phase(*arguments)))
            return found[-1][-1]

        return call

    for name in PHASES:
        monkeypatch.setattr(optimize, name, watched(name, getattr(optimize, name)))
    simulate(tmp_path / "run", World(1000), 600, monkeypatch)
    return found


def test_each_phase_gets_what_the_one_before_returned(calls: list[Call]) -> None:
    assert [name for name, *_ in calls] == list(PHASES)
    (_, (given,), _, deployed), (_, to_screen, _, screening), (_, to_recover, _, trained), (_, to_finish, _, result) = calls
    assert isinstance(given, Search)
    assert all(arguments[0] is deployed for arguments in (to_screen, to_recover, to_finish))
    assert to_recover[1] is screening
    assert to_finish[2] is trained

    assert sorted(map(str, deployed.fp32)) == sorted(map(str, given.fp32))
    ms = {name: deployed.journal.candidates[name].measurements["latency_ms"].value for name in map(str, deployed.fp32)}
    assert list(ms.values()) == sorted(ms.values()), "the fastest first"
    assert deployed.journal.candidates[str(deployed.deployment)].measurements["latency_ms"].value <= min(ms.values())
    assert len(screening.trials) > 3
    assert len({trial.name for trial in screening.trials}) == len(screening.trials)
    assert all(trial.drop is None and not trial.history for trial in screening.trials), "nothing is trained yet"
    assert all({"latency_ms", "size_bytes", "drop_untrained"} <= trial.measurements.keys() for trial in screening.trials)

    assert trained
    plans = {str(trial.plan): trial for trial in screening.trials}
    for trial in trained:
        rounds = [step for step in trial.plan.steps if step.name == "distill"]
        assert len(trial.history) == len(rounds)
        assert rounds or trial.last_drop.value <= 1, "only what is within the limit is handed on untrained"
        start = plans.get(str(Plan(*trial.plan.steps[: len(trial.plan.steps) - len(rounds)])))
        assert start is None or start.measurements == trial.measurements, "training changes neither latency nor size"
    assert any(trial.name in {one.name for one in screening.trials} for trial in trained)
    finalists = {candidate.key.partition("@")[0] for candidate in result.candidates if candidate.stage == "measured"}
    assert any(Plan(*trial.plan.steps, *deployed.deployment.steps().steps).key in finalists for trial in trained)


def test_no_phase_changes_what_it_was_given(calls: list[Call]) -> None:
    for name, arguments, before, _ in calls:
        assert shown(arguments[0]) == before, name
    (_, _, _, deployed), (_, _, _, screening), (_, _, _, trained), _ = calls
    assert isinstance(screening, Screening)
    for value, field in ((deployed, "deployment"), (screening, "trials"), (screening.trials[0], "stopped"), (trained[0], "plan")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, None)


def test_a_finalist_with_outputs_that_cannot_be_scored_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = Runner.metrics, set[str]()

    def metrics(self: Runner, plan: Plan, runtime: str, split: Any) -> Any:
        if not broken and runtime != "torch" and any(step.name == "distill" for step in plan.steps):
            broken.add(plan.key)
        if plan.key in broken:
            raise ModelError("the model's outputs are NaN")
        return real(self, plan, runtime, split)

    monkeypatch.setattr(Runner, "metrics", metrics)
    result, _ = simulate(tmp_path / "run", World(1000), 600, monkeypatch)
    assert broken
    assert all(candidate.key.partition("@")[0] not in broken for candidate in result.candidates if candidate.stage == "measured")
    assert any("is left out: the model's outputs are NaN" in text for text in result.notes)
