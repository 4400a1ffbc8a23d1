"""A fifth task, outside the package: it passes the conformance suite, and the main job works for it."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

import planish
from planish.commands import report
from planish.data import load_images
from planish.errors import DataError
from planish.measurement import Metric
from planish.report.recomputation.recompute import recompute
from planish.report.recomputation.run_folder import read_run
from planish.search.optimize import limits_in_metric_unit
from planish.search.result import Goal, Result
from planish.serving.limits import MemoryBudget
from planish.serving.model import ServedModel
from planish.tasks import Classification
from planish.testing import TaskConformance, entry_points

EXAMPLE = Path(__file__).parents[2] / "examples" / "regression_task"
NAMES = ("diameter [mm]", "height [mm]")


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example as if it were installed."""
    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    sys.path.insert(0, str(EXAMPLE))
    with entry_points(tmp_path_factory.mktemp("site"), groups):
        yield
    sys.path.remove(str(EXAMPLE))


def write_discs(folder: Path, count: int) -> Path:
    from example import write_discs as write

    return write(folder, count)


class TestRegression(TaskConformance):
    task = "regression"

    def data(self, folder: Path) -> Path:
        return write_discs(folder, 120)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs"), 300)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = planish.optimize(data, task="regression", model="resnet8", max_drop=0.2, budget="60s", epochs=8, out=folder)
    return folder, result


def task_on(images: Any) -> Any:
    from regression_task import Regression

    return Regression(images.splits, images.class_names)


def test_metrics_are_those_of_scikit_learn(data: Path) -> None:
    task = task_on(load_images(data, task="regression"))
    targets = task.split("test").targets
    said = targets + np.random.default_rng(0).normal(0, 0.2, targets.shape).astype(np.float32)
    found = task.metrics({"logits": said}, targets)
    assert found["mean_absolute_error"].value == pytest.approx(mean_absolute_error(targets, said), rel=1e-5)
    assert found["r2"].value == pytest.approx(r2_score(targets, said), rel=1e-5)
    assert found["mean_absolute_error"].unit == "mm"
    assert not found["mean_absolute_error"].higher_is_better
    assert all(m.low < m.value < m.high for m in found.values())


def test_a_drop_is_above_zero_where_the_error_has_grown() -> None:
    metric = Metric("mean_absolute_error", "mm", higher_is_better=False)
    before, after = np.array([0.1, 0.2]), np.array([0.3, 0.4])
    worse = metric.drop((float((before - after).mean()), -0.3, -0.1), 2)
    assert (worse.value, worse.low, worse.high, worse.unit) == (pytest.approx(0.2), 0.1, 0.3, "mm")


def test_training_keeps_the_network_with_the_smallest_error(data: Path, tmp_path: Path) -> None:
    trained = planish.train(data, task="regression", model="resnet8", out=tmp_path / "model", changes=["epochs=12", "patience=12"])
    error = trained.metrics["mean_absolute_error"]
    guessing = task_on(load_images(data, task="regression"))
    assert error.value < 0.6 * guessing.guessing(guessing.split("test").targets)
    page = (tmp_path / "model" / "evaluation.html").read_text()
    assert "Mean absolute error on validation, mm" in page
    assert "calibration" not in page.lower(), "that is of classes"


def test_the_search_ships_what_is_within_the_limit_and_says_so_in_millimetres(run: tuple[Path, Result]) -> None:
    folder, result = run
    assert result.metric == "mean_absolute_error"
    assert result.primary_metric == Metric("mean_absolute_error", "mm", higher_is_better=False)
    assert result.goal.max_drop_points == 0.2
    assert 0 < result.goal.point < 0.02, "a hundredth of what guessing is off by"
    assert result.drop.unit == "mm"
    before, after = (c.measurements["mean_absolute_error"].value for c in (result.baseline, result.chosen))
    assert result.drop.value == pytest.approx(after - before, abs=1e-6), "above zero where the error has grown"
    for candidate in result.candidates:
        if candidate.stage == "measured" and candidate.meets_goal:
            assert candidate.measurements["drop_validation"].value <= 0.2
    assert "mm more mean absolute error on test" in result.verdict or "mm less mean absolute error on test" in result.verdict
    page = report(folder).read_text()
    assert "at most 0.2 mm worse" in page
    assert "points" not in page.split("</style>")[-1].split("<script")[0].replace("points=", ""), "its unit is another"


def test_the_report_recomputes_every_number_and_finds_a_forged_one(run: tuple[Path, Result]) -> None:
    folder, result = run
    again = recompute(read_run(folder))
    assert again.warnings == []
    assert again.drop.value == pytest.approx(result.drop.value)
    assert again.before.unit == "mm"
    forged = replace(read_run(folder), result=replace(result, drop=replace(result.drop, value=-result.drop.value - 0.1)))
    assert any("Drop" in warning for warning in recompute(forged).warnings)


def test_without_a_limit_a_hundredth_of_what_guessing_is_off_by_may_be_lost(data: Path) -> None:
    task = task_on(load_images(data, task="regression"))
    targets = task.split("validation").targets
    off = np.abs(targets - np.median(targets, axis=0)).mean()
    limits = limits_in_metric_unit(Goal(), None, task)
    assert limits.max_drop_points == limits.point == pytest.approx(off / 100)
    assert limits_in_metric_unit(Goal(0.5), 0.5, task).max_drop_points == 0.5
    assert limits_in_metric_unit(Goal(0.5), 0.5, Classification({}, ("a", "b"))) == Goal(0.5)


def test_the_bundle_verifies_and_answers_with_values(run: tuple[Path, Result], data: Path) -> None:
    folder, _ = run
    assert planish.verify(folder).failures == []
    model = ServedModel("discs", "1", folder / "bundle")
    pixels, view = model.pixels((data.parent / "disc" / "0000.png").read_bytes(), 10_000, MemoryBudget(1 << 30))
    (answer,) = model.responses(model.run(pixels), [view])
    assert tuple(answer["values"]) == NAMES
    assert model.wrong_answer(model.run(model.sample)) == ""


def test_it_is_served_over_http(run: tuple[Path, Result], data: Path) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    from planish.serving.http.app import service
    from planish.serving.limits import Limits
    from planish.serving.serve import open_models

    with testclient.TestClient(service(open_models([f"discs={run[0]}"]), Limits())) as client:
        answer = client.post("/models/discs/predict", content=(data.parent / "disc" / "0000.png").read_bytes())
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["values"]) == set(NAMES)


def test_a_model_evaluates_on_columns_in_another_order(run: tuple[Path, Result], data: Path) -> None:
    rows = [line.split(",") for line in data.read_text().splitlines()]
    other = data.with_name("other.csv")
    other.write_text("\n".join(f"{path},{second},{first}" for path, first, second in rows))
    plain, turned = (planish.evaluate(run[0], file)["mean_absolute_error"].value for file in (data, other))
    assert turned == pytest.approx(plain)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,diameter\n", "columns"), ("path,diameter\nno.png,1\n", "no.png"), ("path,diameter\nx.png,wide\n", "wide"),
        ("path,diameter\nx.png,nan\n", "nan"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_say_why(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match=match):
        load_images(tmp_path / "t.csv", task="regression")


def test_a_task_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="there is no task 'regresion'"):
        load_images("fashion-mini", task="regresion")
