"""MLflow and TensorBoard store what can be read back by their own libraries; the others are called as their documentation describes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import planish
from planish.measurement import Measurement
from planish.progress import log_values, logged_as
from planish.testing import write_shapes
from planish.tracking.tracker import tracking

ABOUT = {"key": "abc@openvino", "summary": "channels -50 %, INT8", "runtime": "openvino"}


def run_job(chosen: str, folder: Path) -> None:
    """A search in small: two epochs of the original, a candidate with an epoch and two measurements, a report and a bundle."""
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "model.onnx").write_bytes(b"weights")
    (folder / "report.html").write_text("<h1>report</h1>")
    with tracking(chosen, "photos", {"model": "resnet20", "budget": "20m", "weights": None}) as tracked:
        with logged_as("original"):
            log_values({"train_loss": 0.7, "validation_accuracy": math.nan}, step=1)
            log_values({"train_loss": 0.4, "validation_accuracy": 91.0}, step=2)
        with logged_as("channel_pruning(0.5)"):
            log_values({"train_loss": 0.6}, step=1)
        for latency in (1.5, 1.25):
            log_values({"latency_ms": latency, "metric_validation": 90.0}, subject="channel_pruning(0.5)", about=ABOUT)
        drop = Measurement("drop", 0.5, "points", 100, False, 0.25, 0.75)
        tracked.result({"drop": drop}, [folder / "report.html", folder / "bundle"], "Twice as fast.")


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db"])
def test_mlflow(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    place = store.format(tmp_path)
    run_job(f"mlflow:{place}", tmp_path / "photos")
    client = MlflowClient(place)
    experiment = client.get_experiment_by_name("planish")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"photos", "original", "channel_pruning(0.5)"}
    job, candidate = runs["photos"], runs["channel_pruning(0.5)"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, job.info.run_id}
    assert job.data.params == {"model": "resnet20", "budget": "20m"}
    assert job.data.metrics == {"drop": 0.5, "drop_low": 0.25, "drop_high": 0.75}
    assert job.data.tags["verdict"] == "Twice as fast."
    assert candidate.data.tags["summary"] == ABOUT["summary"]
    history = client.get_metric_history(runs["original"].info.run_id, "train_loss")
    assert [(each.step, each.value) for each in history] == [(1, 0.7), (2, 0.4)]
    history = client.get_metric_history(candidate.info.run_id, "latency_ms")
    assert [(each.step, each.value) for each in history] == [(1, 1.5), (2, 1.25)]
    assert {each.path for each in client.list_artifacts(job.info.run_id)} == {"report.html", "bundle"}
    read = Path(client.download_artifacts(job.info.run_id, "bundle/model.onnx", str(tmp_path)))
    assert read.read_bytes() == b"weights"


def test_mlflow_gets_a_real_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path}/mlflow.db"
    planish.train(write_shapes(tmp_path / "shapes", per_class=20), model="resnet8x0.5", epochs=2, out="model", track=f"mlflow:{place}")
    client = MlflowClient(place)
    (run,) = client.search_runs([client.get_experiment_by_name("planish").experiment_id])
    losses = [each.value for each in client.get_metric_history(run.info.run_id, "train_loss")]
    assert losses == [each["train_loss"] for each in json.loads(Path("model/history.json").read_text())]
    assert "model/evaluation.html" in {each.path for each in client.list_artifacts(run.info.run_id, "model")}


def test_an_mlflow_server_that_is_not_there_costs_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from planish.progress import collecting_notes

    with collecting_notes() as notes:
        run_job("mlflow:http://127.0.0.1:9", tmp_path / "photos")
    assert len(notes) == 1
    assert "mlflow cannot be used, and the job is not tracked" in notes[0]


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_job(f"tensorboard:{tmp_path / 'logs'}", tmp_path / "photos")
    (folder,) = (tmp_path / "logs").glob("photos-*")
    read = {
        path.name if path != folder else "": EventAccumulator(str(path)).Reload() for path in (folder, *folder.iterdir()) if path.is_dir()
    }
    assert set(read) == {"", "original", "channel_pruning-0.5"}
    assert [(each.step, pytest.approx(each.value)) for each in read["original"].Scalars("train_loss")] == [(1, 0.7), (2, 0.4)]
    assert [(each.step, each.value) for each in read["channel_pruning-0.5"].Scalars("latency_ms")] == [(1, 1.5), (2, 1.25)]
    assert read[""].Scalars("drop_high")[0].value == 0.75
    plugins = read["channel_pruning-0.5"].summary_metadata
    assert plugins["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"
    assert ABOUT["summary"].encode() in plugins["_hparams_/session_start_info"].plugin_data.content
    assert b"20m" in read[""].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    noted = read[""].Tensors("files/bundle/text_summary")[0].tensor_proto.string_val[0]
    assert noted.decode() == str(tmp_path / "photos" / "bundle")


class FakeRun:
    """A run of wandb or trackio, as far as both have it."""

    def __init__(self, given: dict[str, Any]) -> None:
        kind = FakeConfig if "reinit" in given else dict
        self.given, self.config, self.rows, self.artifacts, self.ended = given, kind(given["config"]), [], [], None

    def log(self, values: Mapping[str, float]) -> None:
        self.rows.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)

    def finish(self, exit_code: int = 0) -> None:
        self.ended = exit_code


class FakeConfig(dict):
    """That of wandb, which refuses changed values."""

    def update(self, values: Mapping[str, Any], allow_val_change: bool = False) -> None:
        assert allow_val_change or not set(self) & set(values)
        super().update(values)


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        self.name, self.type, self.added = name, type, []

    def add_file(self, path: str) -> None:
        assert Path(path).is_file()
        self.added.append(path)

    def add_dir(self, path: str) -> None:
        assert Path(path).is_dir()
        self.added.append(path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    made: list[FakeRun] = []

    def init(**given: Any) -> FakeRun:
        made.append(FakeRun(given))
        return made[-1]

    saved: list[tuple[str, str]] = []
    library = SimpleNamespace(init=init, Settings=lambda **given: given, Artifact=FakeArtifact, saved=saved)
    library.save = lambda path, project: saved.append((path, project))
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setitem(sys.modules, "trackio", library)
    return made


def test_wandb(runs: list[FakeRun], tmp_path: Path) -> None:
    run_job("wandb:team/birds", tmp_path / "photos")
    job, original, candidate = runs
    assert [run.given["name"] for run in runs] == ["photos", "photos: original", "photos: channel_pruning(0.5)"]
    assert {(run.given["entity"], run.given["project"], run.given["group"]) for run in runs} == {("team", "birds", "photos")}
    assert [run.given["job_type"] for run in runs] == ["job", "candidate", "candidate"]
    assert {run.given["reinit"] for run in runs} == {"create_new"}, "runs are open at the same time"
    assert job.given["config"] == {"model": "resnet20", "budget": "20m"}
    assert original.rows == [{"train_loss": 0.7, "step": 1}, {"train_loss": 0.4, "validation_accuracy": 91.0, "step": 2}]
    assert candidate.config == ABOUT
    assert [(each.name, each.type) for each in job.artifacts] == [("photos-report", "html"), ("photos-bundle", "model")]
    assert [run.ended for run in runs] == [0, 0, 0]


def test_trackio(runs: list[FakeRun], tmp_path: Path) -> None:
    run_job("trackio", tmp_path / "photos")
    assert {run.given["project"] for run in runs} == {"planish"}
    assert not {"entity", "reinit", "settings", "job_type"} & set(runs[0].given)
    assert runs[2].rows[-1] == {"latency_ms": 1.25, "metric_validation": 90.0, "step": 2}
    files = [(str(tmp_path / "photos" / name), "planish") for name in ("report.html", "bundle/model.onnx")]
    assert sys.modules["trackio"].saved == files
