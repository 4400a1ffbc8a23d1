"""Conformance tests of formats: the file gives PyTorch's outputs for any batch size and in another process, and contains its metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from planish.artifact import Artifact
from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.checks.agreement import disagreement
from planish.export.runtimes.registry import find, load
from planish.settings import ModelSettings
from planish.task import Task
from planish.tasks import task_for
from planish.technique import Technique
from planish.testing.images import write_shapes
from planish.training.prepare import prepare_job

_SCENES = "fashion-scenes-40"
_ELSEWHERE = """
import json, sys, numpy as np
from planish.export.runtimes.registry import load
files, runtime, images, out = sys.argv[1:]
np.savez(out, **load(json.loads(files), runtime)(np.load(images)))
"""


def make_sure(network: nn.Module) -> None:
    """Give an untrained detector scores of all sizes: otherwise all of them would be low, and there would be nothing to compare."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.bias is not None and float(part.bias.max()) < -4:  # prior of rare objects, see Detector
            nn.init.normal_(part.weight, std=0.3)
            nn.init.zeros_(part.bias)


class FormatConformance:
    """Conformance tests of a format. Inherit from it in a test class and set the attributes::

        class TestOnnx(FormatConformance):
            exporters, runtime = (ToOnnx(),), "onnxruntime"

    For a format that supports several outputs, add another class with ``task = "detection"``.

    Attributes:
        exporters: steps from a torch artifact to the file.
        runtime: runtime of the file.
        tolerance: relative to the largest logit, or as in ``planish.export.checks.agreement``.
        task: task of the networks.
        networks: names of the networks to test.
        image_size: size of the test images.
    """

    exporters: tuple[Technique, ...]
    runtime: str
    tolerance: float = 1e-3
    task: str = "classification"
    networks: tuple[str, ...] = ("resnet8",)
    image_size: int = 24

    def embedded_metadata(self, file: Path) -> dict[str, str]:
        """Return the metadata in the file, by name; override it for formats that have metadata."""
        raise NotImplementedError

    def agrees(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """Return whether the outputs of the file are close enough to PyTorch's; override it for files with reduced precision."""
        return disagreement(expected, found) <= self.tolerance

    def prepared(self, network: str, folder: Path) -> tuple[Artifact, Task]:
        """Return the network and the images; override it for a network that is trained or pruned."""
        torch.manual_seed(0)
        classes = task_for(self.task, {}, ()).annotations == "classes"
        data = write_shapes(folder, size=self.image_size, channels=3, per_class=20) if classes else _SCENES
        job = prepare_job(data, ModelSettings(network, image_size=self.image_size, task=self.task))
        make_sure(job.artifact.module)
        return job.artifact, job.task

    @pytest.fixture(scope="class")
    def exported(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Any]:
        """The artifact before and after export, and images."""
        assert find(self.runtime)
        artifact, task = self.prepared(request.param, tmp_path_factory.mktemp("shapes"))
        after = artifact
        for step in self.exporters:
            after = step.apply(after, task)
        images = task.split("validation").images(artifact.input_spec, artifact.preprocessing)
        return artifact, after, np.ascontiguousarray(images[:9])

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "exported" in metafunc.fixturenames:
            metafunc.parametrize("exported", self.networks, indirect=True)

    def test_it_says_what_pytorch_says_of_any_batch(self, exported: tuple[Artifact, Artifact, Any]) -> None:
        before, after, images = exported
        expected = TorchPredictor(before.module, before.preprocessing)(images)
        assert "scores" not in expected or (expected["scores"] > LEAST_SCORE).any(), "there is something to compare"
        predictor = load(after.files, self.runtime)
        for count in (1, 5, len(images), 1):
            found, wanted = predictor(images[:count]), {name: values[:count] for name, values in expected.items()}
            assert set(found) == set(wanted)
            assert {name: values.dtype.kind for name, values in found.items()} == {name: v.dtype.kind for name, v in wanted.items()}
            assert self.agrees(wanted, found)

    def test_it_says_the_same_in_another_process(self, exported: tuple[Artifact, Artifact, Any], tmp_path: Path) -> None:
        _, after, images = exported
        np.save(tmp_path / "images.npy", images)
        files = json.dumps([str(file.resolve()) for file in after.files])
        command = [sys.executable, "-c", _ELSEWHERE, files, self.runtime, str(tmp_path / "images.npy"), str(tmp_path / "out.npz")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        here = load(after.files, self.runtime)(images)
        with np.load(tmp_path / "out.npz") as there:
            assert set(there) == set(here)
            assert disagreement(here, there) <= 1e-5

    def test_it_holds_class_names_and_preprocessing(self, exported: tuple[Artifact, Artifact, Any]) -> None:
        before, after, _ = exported
        metadata = self.embedded_metadata(after.files[0])
        assert json.loads(metadata["planish.class_names"]) == list(before.class_names)
        assert json.loads(metadata["planish.preprocessing"])["mean"] == pytest.approx(before.preprocessing.mean)
        assert json.loads(metadata["planish.input_spec"])["height"] == before.input_spec.height
        assert [step["technique"] for step in json.loads(metadata["planish.lineage"])["steps"]] == [
            s.technique for s in after.lineage.steps
        ]
