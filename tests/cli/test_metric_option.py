"""``--metric`` from the command to its files: what is reported, compared and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish import commands
from planish.errors import BundleError, DataError, GoalError
from planish.experiments.topics import Strategy
from planish.export import ToOnnx
from planish.plan import Plan
from planish.report.recomputation.recompute import recompute
from planish.report.recomputation.run_folder import read_run
from planish.testing import write_shapes

RECALL = "recall:disc"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("metric") / "shapes", per_class=40)


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric") / "model"
    commands.train(shapes, model="resnet8x2", epochs=2, metric="Recall:disc", out=folder)
    return folder


def test_train_reports_it_first_and_on_its_page(trained: Path) -> None:
    stored = json.loads((trained / "evaluation.json").read_text())
    assert next(iter(stored["metrics"])) == RECALL
    with np.load(trained / "evaluation.npz") as saved:
        of_discs = saved["targets"] == 1
        recall = (saved["logits"].argmax(1) == 1)[of_discs].mean()
    assert stored["metrics"][RECALL]["value"] == pytest.approx(100 * recall)
    page = (trained / "evaluation.html").read_text()
    assert "recall of disc" in page
    assert "Do not trust this page" not in page


def test_evaluate_reports_it_first(trained: Path, shapes: Path) -> None:
    found = commands.evaluate(trained, shapes, metric="log-loss")
    name, first = next(iter(found.items()))
    assert (name, first.unit, first.higher_is_better) == ("log_loss", "nats", False)


@pytest.mark.parametrize(("metric", "says"), [("recall:disk", "did you mean 'recall:disc'"), ("map50", "metrics of classification are")])
def test_other_metrics_are_refused_before_anything_is_trained(shapes: Path, tmp_path: Path, metric: str, says: str) -> None:
    for job in (commands.train, commands.optimize, commands.compare):
        with pytest.raises(GoalError, match=says):
            job(shapes, model="resnet8x2", metric=metric, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_class_without_images_cannot_be_evaluated(trained: Path, tmp_path: Path) -> None:
    write_shapes(tmp_path / "others", per_class=4, seed=1)
    for file in (tmp_path / "others" / "disc").iterdir():
        file.unlink()
    (tmp_path / "others" / "disc").rmdir()
    with pytest.raises(DataError, match="the test split has no image of the class 'disc'"):
        commands.evaluate(trained, tmp_path / "others", metric=RECALL)


def test_an_experiment_compares_by_it_and_resumes_with_it_only(shapes: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"vary": ["activation=relu,elu"], "model": "resnet8x2", "seeds": 1, "epochs": 1, "out": tmp_path / "out"}
    found = commands.experiment(shapes, metric="macro-f1", **options)
    assert all(next(iter(arm.measurements)) == "f1_macro" for arm in found.arms)
    assert {training.metric for arm in found.arms for training in arm.trainings} == {"f1_macro"}
    assert "macro F1" in (tmp_path / "out" / "experiment.html").read_text()
    with pytest.raises(BundleError, match="metric was 'macro-f1' and is now"):
        commands.experiment(shapes, metric="balanced-accuracy", resume=True, **options)


def test_a_search_keeps_it_and_its_report_recomputes_it(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    planish.optimize(shapes, model="resnet8x2", budget="20s", metric=RECALL, max_drop=50, students=[], epochs=2, out=run)
    result = json.loads((run / "result.json").read_text())
    assert result["metric"] == RECALL
    assert "of recall of disc on test" in result["verdict"]
    with np.load(run / "predictions.npz") as saved:
        of_discs = saved["targets"] == 1
        before, after = ((saved[name].argmax(1) == 1)[of_discs].mean() for name in ("baseline", "chosen"))
    assert result["drop"]["value"] == pytest.approx(100 * (before - after), abs=1e-9)
    assert result["chosen"]["measurements"][RECALL]["value"] == pytest.approx(100 * after)
    with np.load(run / "validation.npz") as saved:
        assert 1 < saved["images"] < len(saved["keys"]), "it rests on the discs, not on all images"
    again = recompute(read_run(run))
    assert (again.warnings, again.unchecked) == ([], 0)
    assert "Recall of disc on test" in (run / "report.html").read_text()


def test_a_comparison_is_by_it(shapes: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.experiments.compression.strategies_of", lambda *_: [Strategy("as it is", "", Plan(ToOnnx()))])
    out, weights = tmp_path / "out", next(trained.rglob("*.safetensors"))
    found = commands.compare(shapes, metric="log-loss", model="resnet8x2", weights=weights, train_mode="never", out=out)
    (row,) = found.rows
    assert next(iter(row.measurements)) == next(iter(found.original.measurements)) == "log_loss"
    assert (row.measurements["drop"].value, row.measurements["drop"].unit) == (0, "nats")
    assert "Log loss" in (out / "comparison.html").read_text()
