"""Experiments: equal, paired, resumable; no difference where there is none, and a difference where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish import commands
from planish.errors import GoalError, PlanError
from planish.evaluation.statistics import over_seeds, paired_difference
from planish.report.experiment import experiment_table, findings
from planish.search import trials
from planish.search.experiment import ArmResult, Experiment, arms_of, experiment, factors_of
from planish.search.studies import STUDIES
from planish.testing import write_shapes
from planish.training.recipe import load_recipe, set_values


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=80)


def test_factors_are_read_with_short_names_and_typed_values() -> None:
    assert factors_of(["activation=relu,elu", "batch_size=64, 2", "model=resnet8,plain8"]) == {
        "levers.activation": ["relu", "elu"],
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


def test_designs() -> None:
    factors = {"a": [1, 2, 3], "b": ["x", "y"]}
    assert len(arms_of(factors, "factorial")) == 6
    assert arms_of(factors, "one") == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 3, "b": "x"}, {"a": 1, "b": "y"}]
    assert arms_of(factors, "factorial")[0] == arms_of(factors, "one")[0]
    with pytest.raises(GoalError, match="--design one"):
        arms_of({str(i): [1, 2] for i in range(7)}, "factorial")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_carried_out(name: str) -> None:
    study = STUDIES[name]
    base = set_values(load_recipe(study.recipe), study.changes)
    for values in arms_of(study.factors, study.design):
        set_values(base, [f"{key}={value}" for key, value in values.items() if key not in ("model", "weights")])


def test_an_experiment_end_to_end(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[ArmResult]] = []
    options = {"model": "resnet8", "epochs": 5, "seeds": 2, "changes": ["augmentation=none", "batch_size=16"], "out": tmp_path / "run"}
    factors = factors_of(["initialization=he_normal,zeros", "activation=relu,elu"])
    found = commands.vary(shapes, factors=factors, watch=lambda arms: seen.append(list(arms)), **options)
    assert Experiment.load(tmp_path / "run" / "experiment.json") == found
    arms = {arm.label: arm for arm in found.arms}
    reference, zeros = arms["initialization=he_normal, activation=relu"], arms["initialization=zeros, activation=relu"]
    assert reference.verdict == "reference"
    assert [trial.seed for trial in reference.trials] == [0, 1]
    assert zeros.verdict == "worse", zeros
    assert len(zeros.trials) == 1
    assert "no further seed after 1" in zeros.why
    classes = 3
    assert zeros.measurements["accuracy"].value == pytest.approx(100 / classes, abs=15)
    assert len(seen) == sum(len(arm.trials) for arm in found.arms)
    assert {e.key for e in found.effects} == {"levers.initialization", "levers.activation"}
    assert any("zeros" in text and "behind" in text for text in findings(found))
    assert experiment_table(found.arms).row_count == experiment_table(found.arms, 80).row_count == 4
    page = (tmp_path / "run" / "experiment.html").read_text()
    assert "no further seed" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    monkeypatch.setattr(trials, "fit", None)  # nothing is trained again
    again = commands.vary(shapes, factors=factors, resume=True, **options)
    assert again.arms == found.arms


def test_an_arm_against_itself_is_no_difference(shapes: Path, tmp_path: Path) -> None:
    out, factors = tmp_path / "run", {"training.clip_norm": [1e6, 1e7]}  # no gradient is as long as either
    found = experiment(shapes, factors=factors, model="resnet8", epochs=1, seeds=2, changes=["augmentation=none"], out=out)
    assert found.arms[1].verdict == "no difference"
    assert found.arms[1].measurements["difference"].value == 0


def test_one_factor_at_a_time_is_named_alone_and_a_wide_interval_tells_nothing(tmp_path: Path) -> None:
    few = write_shapes(tmp_path / "shapes", per_class=12, size=16)
    found = experiment(
        few,
        factors=factors_of(["activation=relu,elu", "l1=0,0.0001"]),
        design="one",
        model="resnet8",
        epochs=1,
        seeds=2,
        out=tmp_path / "run",
    )
    assert [arm.label for arm in found.arms] == ["the reference", "activation=elu", "l1=0.0001"]
    for arm in found.arms[1:]:
        m = arm.measurements["difference"]
        wide = m.low <= 0 <= m.high and m.high - m.low > 6
        assert (arm.verdict == "too few seeds to tell") == wide
    assert any(arm.verdict == "too few seeds to tell" for arm in found.arms)
    assert any("oo few seeds" in text for text in findings(found))


def test_what_does_not_apply_is_an_arm_with_its_reason(shapes: Path, tmp_path: Path) -> None:
    found = experiment(
        shapes, factors=factors_of(["squeeze_excitation=none,16", "model=plain8,resnet8"]), epochs=1, seeds=1, out=tmp_path / "run"
    )
    arms = {arm.label: arm for arm in found.arms}
    assert "refused" in arms["squeeze_excitation=16, model=plain8"].why
    assert arms["squeeze_excitation=16, model=resnet8"].verdict


def test_with_one_seed_only_images_count() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((1, 400)) < p for p in (0.8, 0.7))
    ours, theirs = over_seeds(a, b), paired_difference(a[0], b[0])
    assert ours.value == theirs.value
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_hold_what_they_promise(seeds: int) -> None:
    """Two recipes with equal means whose trainings vary by seed, on images of unequal difficulty that both share: no false alarms."""
    rng = np.random.default_rng(seeds)
    missed, rounds, images = 0, 600, 300
    for _ in range(rounds):
        difficulty = rng.normal(0, 1, images)
        by_recipe = rng.normal(0, 0.3, (2, images))
        skill = rng.normal(0, 0.15, (2, seeds, 1))
        right = rng.random((2, seeds, images)) < 1 / (1 + np.exp(-(1 + difficulty + by_recipe[:, None] + skill)))
        interval = over_seeds(right[0], right[1])
        missed += not interval.low <= 0 <= interval.high
    assert missed / rounds < 0.07
    assert missed / rounds > 0.005


def test_levers_of_a_detector_are_compared_by_its_own_recipe_and_metric(tmp_path: Path) -> None:
    found = experiment(
        "fashion-scenes-20", factors={"training.mosaic": [0.0, 0.5]}, model="resnet8", task="detection", changes=["image_size=64"], seeds=2,
        epochs=1, out=tmp_path / "run",
    )  # fmt: skip
    assert "adamw" in found.recipe
    assert all("map" in arm.measurements for arm in found.arms)
