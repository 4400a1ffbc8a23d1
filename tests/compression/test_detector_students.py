"""A detector's backbone is exchanged for a smaller one, which learns from the original's outputs and maps, and is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planish.compression import Int8
from planish.export import ToOnnx
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.training import Distill, Student
from planish.training.prepare import Job, prepare

DATA = "fashion-scenes-40"


@pytest.fixture(scope="module", params=["detection", "semantic"])
def job(request: pytest.FixtureRequest) -> Job:
    return prepare(DATA, "resnet20", task=request.param, image_size=64)


def parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("method", ["logits", "feature", "attention"])
def test_a_smaller_backbone_learns_from_the_original(job: Job, method: Any, tmp_path: Path) -> None:
    plan = Plan(Student(model="resnet8"), Distill(method, epochs=1, batch_size=20), ToOnnx(), Int8())
    steps = plan.steps
    artifact = job.artifact
    for step in steps[:2]:
        artifact = Plan(step).apply(artifact, job.task)
    assert parameters(artifact.module) < parameters(job.artifact.module)
    assert artifact.lineage.source.strides == job.artifact.lineage.source.strides
    save_artifact(artifact, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved")
    assert parameters(again.module) == parameters(artifact.module)
    for step in steps[2:]:
        artifact = Plan(step).apply(artifact, job.task)
    assert artifact.files[0].stat().st_size > 0
