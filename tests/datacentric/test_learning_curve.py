"""Learning curves: nested subsets with equal steps, judged by networks that had not seen the images; the answer and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runner import invoke

from planish import commands
from planish.datacentric import folds as module
from planish.datacentric.learning_curve import LearningCurve
from planish.errors import DataError
from planish.measurement import Measurement
from planish.report.pages.learning_curve import answer, learning_curve_table, write_learning_curve
from planish.testing import write_shapes

QUICK = {"model": "resnet8x0.5", "changes": ["augmentation=none", "batch_size=8", "epochs=3"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=60)


def test_a_learning_curve_end_to_end(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, steps = [], []
    fit = module.fit

    def watched(network: object, task: object, spec: object, preprocessing: object, settings: object, **options: object) -> object:
        train, held_out = (task.split(name) for name in ("train", "validation"))  # type: ignore[attr-defined]
        assert not set(train.keys) & set(held_out.keys)
        counts, pool = np.bincount(train.targets, minlength=3), np.bincount(np.concatenate([train.targets, held_out.targets]), minlength=3)
        assert np.abs(counts - counts.sum() * pool / pool.sum()).max() <= 3, "each size has the classes in their shares"
        sets.append(set(train.keys))
        steps.append(settings.epochs * np.ceil((len(train) - 1) / 8))  # type: ignore[attr-defined]  # one left over joins the batch before
        return fit(network, task, spec, preprocessing, settings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit", watched)
    found = commands.learning_curve(shapes, folds=2, out=tmp_path / "run", **QUICK)
    assert [len(keys) for keys in sets] == pytest.approx([point.images for point in found.points] * 2, abs=1), "folds may differ by one"
    for i in (0, 4):
        assert all(few < many for few, many in zip(sets[i : i + 4], sets[i + 1 : i + 4], strict=False))
    assert max(steps) <= 1.2 * min(steps)
    assert LearningCurve.load(tmp_path / "run" / "learning_curve.json") == found
    with np.load(tmp_path / "run" / "scores.npz") as saved:
        assert [p.accuracy.value for p in found.points] == pytest.approx((100 * saved["scores"].mean(axis=(1, 2))).tolist())
    assert learning_curve_table(found).row_count == 4
    page = (tmp_path / "run" / "learning_curve.html").read_text()
    assert answer(found).split(":")[0] in page
    assert "://" not in page
    monkeypatch.setattr(module, "fit", None)  # nothing is trained again
    again = commands.learning_curve(shapes, folds=2, out=tmp_path / "run", resume=True, **QUICK)
    assert (again.points, again.gain) == (found.points, found.gain)


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (3.0, 1.0, 5.0, "would help"),
        (0.3, -0.5, 1.0, "no difference"),
        (2.0, -4.0, 8.0, "Too few images to tell"),
        (-0.2, -1.0, 0.4, "no diff"),
    ],
)
def test_the_answer_follows_from_the_interval(tmp_path: Path, value: float, low: float, high: float, words: str) -> None:
    made = LearningCurve(
        name="run", created="now", command="", machine={}, data="photos", model="resnet8", weights="", recipe="", folds=3, repeats=1,
        points=[
            {"images": n, "epochs": 1, "accuracy": Measurement("accuracy", 90 - 200 / n**0.5, "%", 300, True, 60, 99)}
            for n in (50, 100, 200, 400)
        ],
        power_law={"a": 0.1, "b": 2.0, "c": 0.5}, gain=Measurement("difference", value, "points", 300, True, low, high),
    )  # fmt: skip
    assert words in answer(made)
    assert "800 instead of 400" in answer(made)
    for law in (made.power_law, {"a": 0.9, "b": -3.0, "c": 0.05}):
        (tmp_path / "learning_curve.json").write_text(json.dumps(_plain(replace(made, power_law=law))))
        assert "<svg" in write_learning_curve(tmp_path).read_text()


def _plain(found: LearningCurve) -> object:
    from pydantic import TypeAdapter

    return TypeAdapter(LearningCurve).dump_python(found, mode="json")


def test_an_eighth_of_few_images_is_refused(shapes: Path, tmp_path: Path) -> None:
    few = write_shapes(tmp_path / "few", per_class=12)
    with pytest.raises(DataError, match="two a class"):
        commands.learning_curve(few, folds=3, out=tmp_path / "run", **QUICK)


def test_options_of_the_command_line(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["learning-curve", str(shapes), "--model", "resnet8x0.5", "--epochs", "1", "--folds", "2", "--out", str(out)]
    first = invoke(arguments)
    assert first.exit_code == 0, first.output
    assert "learning_curve.html" in first.output
    assert json.loads(invoke([*arguments, "--resume", "--json"]).stdout)["folds"] == 2
    (out / "learning_curve.html").unlink()
    assert invoke(["report", str(out)]).exit_code == 0
    assert (out / "learning_curve.html").exists()
    refused = invoke(["few-shot", str(shapes), "--shots", "one"])
    assert (refused.exit_code, "cannot be read" in refused.output) == (2, True), refused.output
