"""bfloat16 is taken where the network itself gains by it, the measurement leaves no trace, and a job of several trainings decides once."""

from __future__ import annotations

import copy
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from planish import commands
from planish.artifact import InputSpec
from planish.compression.pruning.iterative_pruning import IterativePruning
from planish.datacentric.folds import Folds
from planish.experiments.experiment import Experiment
from planish.experiments.topics import TOPICS, strategies_of
from planish.models.zoo import create
from planish.testing import write_shapes
from planish.training import Distill, precision

SPEC = InputSpec(channels=3, height=16, width=16)
CPU = torch.device("cpu")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> torch.nn.Module:
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return create("resnet8", num_classes=3, channels=3, image_size=16).module


def test_the_network_and_randomness_are_left_as_they_were(network: torch.nn.Module) -> None:
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    precision.use_bf16("auto", CPU, network.requires_grad_(False), SPEC)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("seconds", "gains"), [((1.0, 0.5), True), ((1.0, 0.95), False), ((1.0, 2.0), False)])
def test_what_is_faster_is_taken_and_remembered(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], gains: bool
) -> None:
    asked = []
    monkeypatch.setattr(precision, "_step_seconds", lambda *_: asked.append(1) or seconds)
    assert [precision.use_bf16("auto", CPU, network, SPEC) for _ in range(2)] == [gains, gains]
    assert len(asked) == 1
    assert precision.use_bf16("bf16", CPU, network, SPEC)
    assert not precision.use_bf16("off", CPU, network, SPEC)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What each training was asked to compute in, on a machine with bf16 on which every other timing says that it pays; the second
    training is interrupted."""
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    timings = itertools.cycle([(1.0, 0.5), (1.0, 1.5)])
    monkeypatch.setattr(precision, "_step_seconds", lambda *_: next(timings))
    wanted: list[str] = []
    decide = precision.use_bf16

    def watched(setting: str, *rest: Any) -> bool:
        wanted.append(setting)
        if len(wanted) == 2:
            raise KeyboardInterrupt
        return decide(setting, *rest)

    monkeypatch.setattr(importlib.import_module("planish.training.fit"), "use_bf16", watched)
    return wanted


def _experiment(data: Path, out: Path, resume: bool) -> Experiment:
    factors = {
        "modifications.activation": ["relu", "elu"],
        "modifications.norm": ["batch", "group"],
    }  # each arm has layers of its own kinds
    return commands.experiment(data, vary=factors, model="resnet8x0.5", epochs=1, seeds=1, out=out, resume=resume)


def _folds(data: Path, out: Path, resume: bool) -> Folds:
    return commands.crossval(data, model="resnet8x0.5", folds=2, changes=["epochs=1"], out=out, resume=resume)


@pytest.mark.parametrize("job", [_experiment, _folds])
def test_all_trainings_of_a_job_compute_alike_in_a_second_sitting_too(job: Any, tmp_path: Path, asked: list[str]) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12, size=16)
    with pytest.raises(KeyboardInterrupt):
        job(data, tmp_path / "run", False)
    found = job(data, tmp_path / "run", True)
    assert len(asked) >= 3
    assert set(asked) == {"bf16"}, asked
    assert found.machine["training_precision"] == "bfloat16"
    assert "mixed_precision: bf16" in found.recipe
    assert any("bfloat16" in text for text in found.notes)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_arm_that_trains_does_so_in_the_precision_of_the_comparison(topic: str) -> None:
    trained = 0
    for arm in strategies_of(topic, Distill(mixed_precision="off")):
        for step in arm.plan.steps:
            step = step.distill if isinstance(step, IterativePruning) else step
            if hasattr(step, "epochs"):
                assert getattr(step, "mixed_precision", "none") == "off", arm
                trained += 1
    assert trained
