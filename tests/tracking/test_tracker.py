"""What a tracker gets of a job, and that no failure of a tracker reaches the job."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
from cli_runner import invoke
from recorder import Broken, Recorder

import planish
from planish.errors import GoalError, RuntimeMissingError
from planish.measurement import Measurement
from planish.progress import collecting_notes, log_values, logged_as
from planish.search.result import Result
from planish.testing import write_shapes
from planish.tracking import tracker
from planish.tracking.tracker import Tracked, tracking


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The tracker that is opened whichever is asked for."""
    return opened(monkeypatch, Recorder())


def opened(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Recorder:
    def open_it(chosen: str, name: str, settings: dict[str, str]) -> Recorder:
        recorder.settings = settings
        return recorder

    monkeypatch.setattr(tracker, "_opened", open_it)
    return recorder


def test_epochs_of_several_trainings_of_one_candidate_follow_each_other(recorder: Recorder) -> None:
    with tracking("mlflow", "job", {}), logged_as("pruned"):
        for epoch in (1, 2, 3, 1, 2, 1):
            log_values({"train_loss": float(epoch)}, step=epoch)
    assert recorder.series("pruned", "train_loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 1.0), (5, 2.0), (6, 1.0)]


def test_a_finalist_continues_the_trial_that_it_was(recorder: Recorder) -> None:
    trial = {"key": "abc@openvino", "summary": "half", "reason": ""}
    with tracking("mlflow", "job", {}):
        with logged_as("pruned"):
            log_values({"train_loss": 0.5}, step=1)
        log_values({"latency_ms": 2.0}, subject="pruned", about=trial | {"key": "before@openvino"})
        log_values({"latency_ms": 2.0}, subject="pruned", about=trial)
        log_values({"latency_ms": 1.9}, subject="abc@openvino", about=trial)
        log_values({"latency_ms": 2.1}, subject="before@openvino", about=trial | {"key": "before@openvino"})
        log_values({"latency_ms": 5.0}, subject="def@openvino", about={"key": "def@openvino", "summary": "original model"})
    assert set(recorder.logged) == {"pruned", "half (before@openvino)", "original model (def@openvino)"}
    assert recorder.series("pruned", "latency_ms") == [(1, 2.0), (2, 2.0), (3, 1.9)]
    assert recorder.described["pruned"] == {"key": "abc@openvino", "summary": "half"}


def test_numbers_that_were_not_measured_are_left_out(recorder: Recorder) -> None:
    with tracking("mlflow", "job", {}):
        log_values({"train_loss": 0.5, "validation_recall:hat": 80.0, "validation_accuracy": math.nan}, step=1)
        log_values({"validation_accuracy": math.inf}, step=2)
    assert recorder.logged == {"": [(1, {"train_loss": 0.5, "validation_recall/hat": 80.0})]}


def test_a_result_has_the_ends_of_its_intervals(recorder: Recorder, tmp_path: Path) -> None:
    with tracking("mlflow", "job", {}) as tracked:
        exact = Measurement("size_bytes", 10.0, "bytes", 1, False)
        tracked.result({"drop": Measurement("drop", 0.5, "points", 9, False, 0.1, 0.9), "size_bytes": exact}, [tmp_path], "faster")
    assert recorder.logged[""] == [(1, {"drop": 0.5, "drop_low": 0.1, "drop_high": 0.9, "size_bytes": 10.0})]
    assert recorder.saved == [tmp_path]
    assert recorder.described[""] == {"verdict": "faster"}


def test_runs_end_as_failed_only_if_the_job_failed(recorder: Recorder) -> None:
    with tracking("mlflow", "job", {}):
        pass
    with pytest.raises(ValueError, match="of the job"), tracking("mlflow", "job", {}):
        raise ValueError("of the job")
    assert recorder.closed == [False, True]


def test_without_a_tracker_nothing_is_stored() -> None:
    with tracking(None, "job", {"epochs": 1}) as tracked:
        log_values({"train_loss": 1.0}, step=1)
        tracked.result({}, [])
    assert isinstance(tracked, Tracked)


def test_training_goes_on_where_a_tracker_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = opened(monkeypatch, Broken())
    data = write_shapes(tmp_path / "shapes", per_class=20)
    with collecting_notes() as notes:
        trained = planish.train(data, model="resnet8x0.5", epochs=5, out=tmp_path / "model", track="mlflow")
    assert trained.metrics["accuracy"].n > 0
    assert notes.count("tracking has ended, and the job goes on: the server went away") == 1
    assert isinstance(broken, Broken)
    assert broken.calls == 3, "it is not asked again"
    assert not broken.saved


def test_a_tracker_that_cannot_be_opened_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    from planish.tracking import tensorboard_tracker

    def fails(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tensorboard_tracker.TensorBoardTracker, "__init__", fails)
    with collecting_notes() as notes, tracking("tensorboard", "job", {}):
        log_values({"train_loss": 1.0}, step=1)
    assert notes == ["tensorboard cannot be used, and the job is not tracked: no space left"]


def test_an_unknown_tracker_and_a_missing_library_end_the_command_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    ran = invoke(["train", str(data), "--out", str(tmp_path / "model"), "--track", "mlfow"])
    assert ran.exit_code == 2
    assert "there is no tracker 'mlfow'. trackers are mlflow, tensorboard, wandb, trackio" in ran.stderr
    assert not (tmp_path / "model").exists()
    with pytest.raises(GoalError, match="for example --track mlflow"), tracking("", "job", {}):
        pass
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "mlflow":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'planish\[mlflow\]'"), tracking("mlflow", "job", {}):
        pass


def test_a_training_logs_its_learning_curve(recorder: Recorder, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20)
    trained = planish.train(data, model="resnet8x0.5", epochs=2, out=tmp_path / "model", track="tensorboard:logs")
    history = json.loads((tmp_path / "model" / "history.json").read_text())
    assert recorder.series("", "train_loss") == [(each["epoch"], each["train_loss"]) for each in history]
    assert recorder.series("", "validation_accuracy") == [(each["epoch"], each["validation_score"]) for each in history]
    assert recorder.series("", "accuracy") == [(2, trained.metrics["accuracy"].value)]
    assert recorder.settings["training.epochs"] == "2"
    assert recorder.settings["model"] == "resnet8x0.5"
    assert "budget" not in recorder.settings
    assert recorder.saved == [tmp_path / "model"]
    assert recorder.closed == [False]


@pytest.mark.slow
def test_a_search_logs_the_original_and_every_candidate(recorder: Recorder, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=100)
    planish.optimize(data, model="resnet8", budget="90s", max_drop=4.0, students=[], out=tmp_path / "run", track="mlflow")
    result = Result.load(tmp_path / "run" / "result.json")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert recorder.series("original", "train_loss") == [(each["epoch"], each["train_loss"]) for each in history]
    newest = {described["key"]: part for part, described in recorder.described.items() if "key" in described}
    for candidate in (*result.candidates, *result.baselines.values()):
        measured = {name: value for _, values in recorder.logged[newest[candidate.key]] for name, value in values.items()}
        for name in ("latency_ms", "drop_validation"):
            if name in candidate.measurements:
                assert measured[name] == candidate.measurements[name].value
        if any(step["name"] == "distill" for step in candidate.plan):
            assert recorder.series(newest[candidate.key], "train_loss"), "candidates have learning curves"
    assert recorder.series("", "drop") == [(1, result.drop.value)]
    assert recorder.described[""]["verdict"] == result.verdict
    assert recorder.saved == [tmp_path / "run" / name for name in ("report.html", "result.json", "bundle")]
    assert all(path.exists() for path in recorder.saved)
