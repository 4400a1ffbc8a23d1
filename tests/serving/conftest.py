from __future__ import annotations

from pathlib import Path

import pytest

from planish.export import ToOnnx
from planish.export.bundle import write_bundle
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare(write_shapes(tmp_path_factory.mktemp("shapes"), per_class=20), "resnet8x0.5")


@pytest.fixture(scope="session")
def bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "shapes"
    exported = ToOnnx().apply(job.artifact, job.task)
    return write_bundle(exported, job.task, folder, runtime="onnxruntime", measurements={}, threads=1, batch=1, golden=4)
