"""A run folder with a real bundle, and a server in the place of the Hugging Face Hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from export_fakes import CLASSES, FakeTask, trained
from fake_hub import FakeHub, fake_hub
from report.fake_run import write_run

from planish.export import ToOnnx
from planish.export.bundle.folder import write_bundle
from planish.settings import DeploymentTarget


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ``result.json`` is made up and whose bundle is a model with that result's measurements."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    result = write_run(folder, CLASSES, n=300, images=False)
    shutil.rmtree(folder / "bundle")
    task = FakeTask()
    measurements = result.chosen.measurements | {"drop": result.drop, "latency_ratio": result.latency_ratio}
    write_bundle(
        ToOnnx().apply(trained(task), task), task, folder / "bundle",
        target=DeploymentTarget("onnxruntime"), measurements=measurements, golden=3,
    )  # fmt: skip
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "shapes"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch) as running:
        yield running
