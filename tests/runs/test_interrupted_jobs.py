"""Jobs beside the search that are interrupted in the middle of a training, and what they come to when they are resumed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planish.training.fit  # noqa: F401 for sys.modules
from planish import commands
from planish.errors import BundleError
from planish.models.storage import load_artifact
from planish.runs.store import Store, claim
from planish.testing import write_shapes

FIT = sys.modules["planish.training.fit"]
CHANGES = ["training.batch_size=16", "training.warmup_epochs=1", "training.epochs=1000"]
Job = Callable[..., Any]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=40)


class Time:
    """Of trainings: a quarter of a second a step. At step ``stop`` somebody presses Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.steps, self.stop, real = 0.0, 0, -1, FIT._Loss.__call__
        for module in (FIT, sys.modules["planish.training.schedules.schedule"]):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        for name in ("planish.commands.train", "planish.invocation"):
            monkeypatch.setattr(sys.modules[name], "monotonic", lambda: self.now)
        monkeypatch.setattr("planish.search.time_estimates.perf_counter", lambda: self.now)

        def step(loss: Any, *batch: Any) -> Any:
            self.steps += 1
            self.now += 1 / 4
            if self.steps == self.stop:
                raise KeyboardInterrupt
            return real(loss, *batch)

        monkeypatch.setattr(FIT._Loss, "__call__", step)
        monkeypatch.setattr(FIT, "_CHECKPOINT_SECONDS", -1.0)
        monkeypatch.setattr("planish.training.precision._step_seconds", lambda *_: (1.0, 2.0))


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def steps_of(run: Path) -> dict[str, str]:
    with sqlite3.connect(run / "store.sqlite") as db:
        return dict(db.execute("select key, found from finished_steps where stage != 'interrupted'"))


def vary(data: Path, **options: Any) -> Any:
    return commands.experiment(
        data, vary={"modifications.activation": ["relu", "elu"]}, recipe="scratch-small", seeds=1, budget="20s", **options
    )


def folds(data: Path, **options: Any) -> Any:
    return commands.crossval(data, recipe="scratch-small", folds=2, budget="20s", **options)


@pytest.mark.parametrize("job", [vary, folds])
def test_interrupted_in_its_second_training_it_comes_to_what_it_would_have_come_to(
    shapes: Path, tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    monkeypatch.setattr("planish.runs.trainings.peak_memory", _no_memory)
    options = {"model": "resnet8x0.5", "changes": CHANGES}
    calm = job(shapes, out=tmp_path / "calm", **options)
    whole, time.steps = time.steps, 0
    time.stop = int(0.85 * whole)
    with pytest.raises(KeyboardInterrupt):
        job(shapes, out=tmp_path / "stopped", **options)
    resumed = job(shapes, out=tmp_path / "stopped", resume=True, **options)
    assert resumed.notes == calm.notes
    assert time.steps < time.stop + 0.5 * whole, "neither the first training was repeated, nor the second from its start"
    expected, found = steps_of(tmp_path / "calm"), steps_of(tmp_path / "stopped")
    assert found == expected
    assert sum(key.startswith("schedule") for key in found) > 4
    assert not list(tmp_path.rglob("*.checkpoint"))


class _no_memory:
    bytes = 0

    def __init__(self, device: object) -> None:
        pass

    def __enter__(self) -> _no_memory:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_training_goes_on_as_it_was_planned_alone_and_with_the_same_settings(shapes: Path, tmp_path: Path, time: Time) -> None:
    options: dict[str, Any] = {"model": "resnet8x0.5", "recipe": "scratch-small", "changes": CHANGES, "budget": "10s"}
    calm = commands.train(shapes, out=tmp_path / "calm", **options)
    whole, time.steps = time.steps, 0
    time.stop = int(0.7 * whole)
    with pytest.raises(KeyboardInterrupt):
        commands.train(shapes, out=tmp_path / "stopped", **options)
    left = tmp_path / "stopped.checkpoint"
    with pytest.raises(BundleError, match="add --resume"):
        commands.train(shapes, out=tmp_path / "stopped", **options)
    with pytest.raises(BundleError, match="budget was '10s' and is now '20s'"):
        commands.train(shapes, out=tmp_path / "stopped", resume=True, **options | {"budget": "20s"})
    held = claim(left, _job_of(left), resume=True)
    with pytest.raises(BundleError, match="in use by the process"):
        commands.train(shapes, out=tmp_path / "stopped", resume=True, **options)
    held.close()
    shutil.copytree(left, tmp_path / "kept")
    resumed = commands.train(shapes, out=tmp_path / "stopped", resume=True, **options)
    assert time.steps < time.stop + 0.6 * whole
    weights = [load_artifact(folder).module.state_dict() for folder in (calm.folder, resumed.folder)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())
    histories = [json.loads((folder / "history.json").read_text()) for folder in (calm.folder, resumed.folder)]
    assert histories[0] == histories[1]
    assert not left.exists()
    assert len(Store(tmp_path / "kept").keys()) > 2


def _job_of(run: Path) -> dict[str, Any]:
    return dict(json.loads(steps_of(run)["job"]))


def test_what_fails_before_it_trains_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        commands.train(tmp_path / "nowhere", model="resnet8", out=tmp_path / "model")
    assert not list(tmp_path.iterdir())
