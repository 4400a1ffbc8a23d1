"""A detector's backbone is exchanged for a smaller one, which learns from the original's outputs and maps, and is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planish.artifact import Artifact
from planish.compression import Int8
from planish.data.normalisation import Normalise
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.training import Distill, Student
from planish.training.prepare import Job, prepare_job

DATA = "fashion-scenes-40"


@pytest.fixture(scope="module", params=["detection", "semantic"])
def job(request: pytest.FixtureRequest) -> Job:
    return prepare_job(DATA, ModelSettings("resnet20", task=request.param, image_size=64))


def parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def distance(artifact: Artifact, job: Job) -> float:
    """From the original's outputs, on the images that the student learns from."""
    pixels = job.task.split("train").images(artifact.input_spec, artifact.preprocessing)
    images = Normalise.of(artifact.preprocessing)(torch.from_numpy(np.asarray(pixels)))
    with torch.no_grad():
        ours, theirs = artifact.module.eval()(images), job.artifact.module.eval()(images)
        return float(job.task.distillation_loss(artifact.module, ours, theirs, 1.0))


@pytest.mark.parametrize("method", ["logits", "feature", "attention"])
def test_a_smaller_backbone_learns_from_the_original(job: Job, method: Any, tmp_path: Path) -> None:
    fresh = Plan(Student(model="resnet8")).apply(job.artifact, job.task)
    student = Plan(Distill(method, epochs=2, batch_size=10)).apply(fresh, job.task)
    assert parameters(student.module) < parameters(job.artifact.module)
    assert student.lineage.source.strides == job.artifact.lineage.source.strides
    assert distance(student, job) < 0.9 * distance(fresh, job)

    save_artifact(student, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved")
    images = job.task.split("test").images(student.input_spec, student.preprocessing)[:4]
    before, after = (TorchPredictor(artifact.module, artifact.preprocessing)(images) for artifact in (student, again))
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=1e-5)
    file = Plan(ToOnnx(), Int8()).apply(student, job.task)
    assert {name: values.shape for name, values in load(file.files, "onnxruntime")(images).items()} == {
        name: values.shape for name, values in before.items()
    }
