"""Experiments: equal, paired, resumable; no difference where there is none, and a difference where there is one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from planish import commands
from planish.errors import GoalError, PlanError
from planish.evaluation.statistics.intervals import Interval, over_seeds
from planish.experiments.experiment import TOO_FEW, ArmResult, Experiment, ExperimentSettings, arms_with, experiment, factors_of, verdict_of
from planish.experiments.studies import STUDIES
from planish.report.pages.experiment import experiment_table, findings
from planish.runs import trainings as trials
from planish.settings import ModelSettings, RecipeSettings, RunSettings
from planish.testing import write_shapes
from planish.training.recipe import load_recipe, set_values


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=80)


def test_factors_are_read_with_short_names_and_typed_values() -> None:
    assert factors_of(["activation=relu,elu", "batch_size=64, 2", "model=resnet8,plain8"]) == {
        "modifications.activation": ["relu", "elu"],
        "training.batch_size": [64, 2],
        "model": ["resnet8", "plain8"],
    }


@pytest.mark.parametrize(
    ("vary", "error", "words"),
    [
        (["activation"], GoalError, "two or more values"),
        (["activation=relu"], GoalError, "two or more values"),
        (["activatoin=relu,elu"], PlanError, "did you mean 'activation'"),
        (["norm=batch,group", "norm=layer,none"], GoalError, "twice"),
    ],
)
def test_what_cannot_be_varied_is_told(vary: list[str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        factors_of(vary)


@pytest.mark.parametrize("values", [[], "elu"])
@pytest.mark.parametrize("design", ["factorial", "one"])
def test_a_factor_without_a_list_of_values_is_refused(values: Any, design: Any) -> None:
    with pytest.raises(GoalError, match="without a list of values"):
        arms_with({"modifications.norm": ["batch", "group"], "modifications.activation": values}, design)


def test_designs() -> None:
    factors = {"a": [1, 2, 3], "b": ["x", "y"]}
    assert len(arms_with(factors, "factorial")) == 6
    assert arms_with(factors, "one") == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 3, "b": "x"}, {"a": 1, "b": "y"}]
    assert arms_with(factors, "factorial")[0] == arms_with(factors, "one")[0]
    with pytest.raises(GoalError, match="--design one"):
        arms_with({str(i): [1, 2] for i in range(7)}, "factorial")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_carried_out(name: str) -> None:
    study = STUDIES[name]
    base = set_values(load_recipe(study.recipe), study.changes)
    for values in arms_with(study.factors, study.design):
        set_values(base, [f"{key}={value}" for key, value in values.items() if key not in ("model", "weights")])


def test_an_experiment_end_to_end(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[ArmResult]] = []
    options = {"model": "resnet8", "epochs": 5, "seeds": 2, "changes": ["augmentation=none", "batch_size=16"], "out": tmp_path / "run"}
    factors = factors_of(["initialization=he_normal,zeros", "activation=relu,elu"])
    found = commands.experiment(shapes, vary=factors, watch=lambda arms: seen.append(list(arms)), **options)
    assert Experiment.load(tmp_path / "run" / "experiment.json") == found
    arms = {arm.label: arm for arm in found.arms}
    reference, zeros = arms["initialization=he_normal, activation=relu"], arms["initialization=zeros, activation=relu"]
    assert reference.verdict == "reference"
    assert [trial.seed for trial in reference.trainings] == [0, 1]
    assert zeros.verdict in ("worse", TOO_FEW), zeros  # two seeds of one arm can only tell much
    assert len(zeros.trainings) == 2, "one seed stops no arm"
    classes = 3
    assert zeros.measurements["accuracy"].value == pytest.approx(100 / classes, abs=15)
    assert len(seen) == sum(len(arm.trainings) for arm in found.arms)
    assert {e.key for e in found.effects} == {"modifications.initialization", "modifications.activation"}
    assert any("zeros" in text for text in findings(found))
    assert experiment_table(found.arms).row_count == experiment_table(found.arms, 80).row_count == 4
    page = (tmp_path / "run" / "experiment.html").read_text()
    assert TOO_FEW in page or "worse" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    monkeypatch.setattr(trials, "fit", None)  # nothing is trained again
    again = commands.experiment(shapes, vary=factors, resume=True, **options)
    assert again.arms == found.arms


def test_an_arm_against_itself_is_no_difference(shapes: Path, tmp_path: Path) -> None:
    out, factors = tmp_path / "run", {"training.clip_norm": [1e6, 1e7]}  # no gradient is as long as either
    found = commands.experiment(shapes, vary=factors, model="resnet8", epochs=1, seeds=2, changes=["augmentation=none"], out=out)
    assert found.arms[1].measurements["difference"].value == 0
    assert found.arms[1].verdict == TOO_FEW, "48 test images may all be alike where one in thirty differs"
    same = np.ones((2, 1000))
    assert verdict_of(over_seeds(same, same), 2) == "no difference"


def test_one_factor_at_a_time_is_named_alone_and_a_wide_interval_tells_nothing(tmp_path: Path) -> None:
    few = write_shapes(tmp_path / "shapes", per_class=12, size=16)
    found = commands.experiment(
        few,
        vary=factors_of(["activation=relu,elu", "l1=0,0.0001"]),
        design="one",
        model="resnet8",
        epochs=1,
        seeds=2,
        out=tmp_path / "run",
    )
    assert [arm.label for arm in found.arms] == ["the reference", "activation=elu", "l1=0.0001"]
    assert [arm.verdict for arm in found.arms[1:]] == ["too few seeds to tell"] * 2, "of six test images and two seeds nothing follows"
    assert any("oo few seeds" in text for text in findings(found))


def test_what_does_not_apply_is_an_arm_with_its_reason(shapes: Path, tmp_path: Path) -> None:
    found = commands.experiment(
        shapes, vary=factors_of(["squeeze_excitation=none,16", "model=plain8,resnet8"]), epochs=1, seeds=1, out=tmp_path / "run"
    )
    arms = {arm.label: arm for arm in found.arms}
    assert "refused" in arms["squeeze_excitation=16, model=plain8"].reason
    assert arms["squeeze_excitation=16, model=resnet8"].verdict


def test_one_seed_is_too_few_to_tell_anything(shapes: Path, tmp_path: Path) -> None:
    """Also where all images differ: another seed might turn it round."""
    factors = factors_of(["initialization=he_normal,zeros"])
    changes = ["augmentation=none", "batch_size=16"]
    found = commands.experiment(shapes, vary=factors, model="resnet8", epochs=3, seeds=1, changes=changes, out=tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "experiment.json").read_text())["arms"][1]
    assert found.arms[1].verdict == stored["verdict"] == "too few seeds to tell"
    assert (stored["measurements"]["difference"]["low"], stored["measurements"]["difference"]["high"]) == (-100, 100)
    page = (tmp_path / "run" / "experiment.html").read_text()
    assert "too few seeds to tell" in page
    assert "no interval" in page
    assert "[" not in page.split('<table id="arm-table">')[1].split("</table>")[0]
    console = Console(file=io.StringIO(), width=120)
    console.print(experiment_table(found.arms))
    assert "too few seeds to tell" in console.file.getvalue()
    assert any("one seed says nothing about other seeds" in text for text in findings(found))


@pytest.mark.parametrize(
    ("low", "high", "seeds", "verdict"),
    [
        (0.001, 0.05, 3, "better"),
        (-0.05, -0.001, 3, "worse"),
        (-0.01, 0.01, 3, "no difference"),
        (-0.05, 0.05, 3, "too few seeds to tell"),
        (0.001, 0.05, 1, "too few seeds to tell"),
    ],
)
def test_verdicts(low: float, high: float, seeds: int, verdict: str) -> None:
    assert verdict_of(Interval((low + high) / 2, low, high), seeds) == verdict


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("by_seed", [0.0, 0.15, 0.6])
def test_arms_that_are_alike_are_seldom_called_different(seeds: int, by_seed: float) -> None:
    """Ten arms of equal mean, on images of unequal difficulty that all share, whose trainings vary by seed as much as ``by_seed``.

    In at most 5 % of studies some arm may be called better or worse. Judged by images alone it was 35 % with one seed.
    """
    rng, studies, images = np.random.default_rng(seeds), 120, 300
    wrong = 0
    for _ in range(studies):
        logit = 1 + rng.normal(0, 1, images) + rng.normal(0, 0.3, (10, 1, images)) + rng.normal(0, by_seed, (10, seeds, 1))
        right = (rng.random((10, seeds, images)) < 1 / (1 + np.exp(-logit))).astype(float)
        level = 1 - 0.05 / 9
        wrong += any(verdict_of(over_seeds(arm, right[0], level), seeds) in ("better", "worse") for arm in right[1:])
    assert wrong / studies <= 0.05 + 0.02


def test_a_difference_that_is_there_is_found_with_more_seeds() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        skill = rng.normal(0, 0.1, (2, 5, 1)) + np.array([1.6, 1.0])[:, None, None]
        right = (rng.random((2, 5, 2000)) < 1 / (1 + np.exp(-skill))).astype(float)
        found.append(verdict_of(over_seeds(right[0], right[1]), 5))
    assert found.count("better") > 55
    assert "worse" not in found


def test_modifications_of_a_detector_are_compared_by_its_own_recipe_and_metric(tmp_path: Path) -> None:
    found = commands.experiment(
        "fashion-scenes-20", vary={"training.mosaic": [0.0, 0.5]}, model="resnet8", task="detection", changes=["image_size=64"], seeds=2,
        epochs=1, out=tmp_path / "run",
    )  # fmt: skip
    assert "adamw" in found.recipe
    assert all("map" in arm.measurements for arm in found.arms)


@pytest.mark.parametrize(
    ("model", "factors"),
    [
        ("torchvision:ssdlite320_mobilenet_v3_large", {"training.batch_size": [8, 16]}),
        ("resnet8", {"model": ["torchvision:ssdlite320_mobilenet_v3_large", "resnet8"]}),
    ],
)
def test_detectors_of_torchvision_are_compared_by_their_own_recipe(
    model: str, factors: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str) -> None:
        raise GoalError(name)

    monkeypatch.setattr("planish.experiments.experiment.load_recipe", load)
    with pytest.raises(GoalError, match="objects-torchvision"):
        experiment(
            "photos", factors, model=ModelSettings(model, task="detection"), recipe=RecipeSettings(), plan=ExperimentSettings(),
            run=RunSettings(),
        )  # fmt: skip
