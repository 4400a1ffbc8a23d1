"""A study of ensembles: what it says is what its saved networks do, and a second sitting repeats nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import invoke
from macs_clock import time_by_macs

from planish import commands
from planish.data.normalisation import Normalise
from planish.errors import GoalError
from planish.experiments import ensemble_members
from planish.experiments.ensembles import EnsembleStudy
from planish.models.storage import load_artifact
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import prepare_job

OPTIONS = {"model": "resnet8x0.5", "epochs": 4, "seeds": 3, "changes": ["augmentation=none", "batch_size=16", "ema_decay=0.9"]}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=60)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EnsembleStudy]:
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patched:
        time_by_macs(patched)
        return out, commands.ensembles(shapes, out=out, **OPTIONS)


def test_accuracy_is_that_of_the_saved_networks(run: tuple[Path, EnsembleStudy], shapes: Path) -> None:
    out, study = run
    arms = {arm.label: arm for arm in study.arms}
    job = prepare_job(shapes, ModelSettings("resnet8x0.5"))
    test = job.task.split("test")
    pixels = np.array(test.images(job.artifact.input_spec, job.artifact.preprocessing))
    images = Normalise.of(job.artifact.preprocessing)(torch.from_numpy(pixels))
    with torch.no_grad():
        said = [load_artifact(out / "work" / f"single-{i}" / "0").module(images).softmax(1).numpy() for i in range(3)]

    def accuracy(probabilities: np.ndarray) -> float:
        return 100 * float(np.mean(probabilities.argmax(1) == test.targets))

    assert arms["single network"].measurements["accuracy"].value == pytest.approx(np.mean([accuracy(p) for p in said]))
    assert arms["ensemble of 3"].measurements["accuracy"].value == pytest.approx(accuracy(sum(said)))
    pairs = [accuracy(said[i] + said[(i + 1) % 3]) for i in range(3)]
    assert arms["ensemble of 2"].measurements["accuracy"].value == pytest.approx(np.mean(pairs))
    for arm in study.arms[1:]:
        gained = arm.measurements["accuracy"].value - arms["single network"].measurements["accuracy"].value
        assert arm.measurements["difference"].value == pytest.approx(gained)


def test_costs_are_those_of_everything_that_was_needed(run: tuple[Path, EnsembleStudy]) -> None:
    arms = {arm.label: arm.measurements for arm in run[1].arms}
    single = arms["single network"]
    assert arms["ensemble of 3"]["parameters"].value == 3 * single["parameters"].value
    assert arms["snapshot ensemble"]["parameters"].value == 3 * single["parameters"].value
    assert arms["TTA, shift"]["parameters"].value == arms["student"]["parameters"].value == single["parameters"].value
    assert arms["ensemble of 3"]["training_seconds"].value == pytest.approx(3 * single["training_seconds"].value)
    assert arms["student"]["training_seconds"].value > arms["ensemble of 3"]["training_seconds"].value
    assert arms["soup, uniform"]["training_seconds"].value > arms["fine-tuned copy"]["training_seconds"].value
    assert arms["ensemble of 3"]["latency_ratio"].high < 0.8
    assert arms["TTA, shift"]["latency_ratio"].high < arms["TTA, flip"]["latency_ratio"].low < 1
    for arm in run[1].arms:
        alone = arm.label in ("single network", "EMA", "SWA", "student", "fine-tuned copy") or "soup" in arm.label
        assert (arm.latency_verdict == "no difference") == alone, arm.label
        assert (arm.measurements["size_bytes"].value == single["size_bytes"].value) == alone


def test_a_second_sitting_repeats_nothing_and_the_page_holds_every_arm(
    run: tuple[Path, EnsembleStudy], shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, study = run
    assert EnsembleStudy.load(out / "ensembles.json") == study
    monkeypatch.setattr(ensemble_members, "fit", None)
    assert commands.ensembles(shapes, out=out, resume=True, **OPTIONS).arms == study.arms
    page = commands.report(out).read_text()
    table = page.split('<table id="arm-table">')[1]
    assert re.findall(r"</svg><span>(.+?)</span>", table) == [arm.label for arm in study.arms]
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    printed = invoke(["report", str(out)])
    assert printed.exit_code == 0


def test_one_seed_is_refused_on_the_command_line(shapes: Path) -> None:
    refused = invoke(["ensembles", str(shapes), "--seeds", "1"])
    assert refused.exit_code == 2
    assert "at least --seeds 2" in refused.output


def test_one_seed_makes_no_ensemble(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(GoalError, match="several networks"):
        commands.ensembles(shapes, seeds=1, out=tmp_path / "run")
