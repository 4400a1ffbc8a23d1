from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from patches import write_patches

from planish.export import ToOnnx
from planish.export.bundle.folder import write_bundle
from planish.settings import DeploymentTarget, ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare_job


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare_job(write_shapes(tmp_path_factory.mktemp("shapes"), per_class=20), ModelSettings("resnet8x0.5"))


@pytest.fixture(scope="session")
def bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "shapes"
    exported = ToOnnx().apply(job.artifact, job.task)
    return write_bundle(exported, job.task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=4)


@pytest.fixture(scope="session")
def other_bundle(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same network with other weights."""
    changed = copy.deepcopy(job.artifact.module)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.5)
    exported = ToOnnx().apply(dataclasses.replace(job.artifact, module=changed), job.task)
    folder = tmp_path_factory.mktemp("other") / "shapes"
    return write_bundle(exported, job.task, folder, target=DeploymentTarget("onnxruntime"), measurements={}, golden=4)


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of models that say where, by their task."""
    folder = tmp_path_factory.mktemp("patches")
    return {task: write_patches(folder / task, task) for task in ("detection", "instance", "semantic")}


@dataclass(frozen=True)
class Served:
    """The command in a process of its own, and what it writes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts the command with these arguments, and waits until it listens."""
    with contextlib.ExitStack() as started:

        def start(*arguments: object, port: int = 0) -> Served:
            number = len(list(tmp_path.glob("service-*.log")))
            log = tmp_path / f"service-{number}.log"
            command = [sys.executable, "-m", "planish.cli", "serve", "--port", str(port), *map(str, arguments)]
            with log.open("wb") as written:  # a pipe that nobody reads would fill, and the service wait for it
                environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
                process = subprocess.Popen(command, stdout=written, stderr=written, env=environment)
            started.callback(process.wait)
            started.callback(process.kill)
            deadline = time.monotonic() + 300
            while not (found := re.search(r"listening on https?://[^/]*:(\d+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            return Served(process, int(found[1]), log)

        yield start
