"""What every format promises: the file says what PyTorch says, of any batch, here and in another process, and what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planish.artifact import Artifact
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes import find, load
from planish.task import Task
from planish.technique import Technique
from planish.testing.images import write_shapes
from planish.training.prepare import prepare

_ELSEWHERE = """
import json, sys, numpy as np
from planish.export.runtimes import load
files, runtime, images, out = sys.argv[1:]
np.save(out, load(json.loads(files), runtime)(np.load(images))["logits"])
"""


class FormatConformance:
    """Inherit this in a test class, and say which format::

        class TestOnnx(FormatConformance):
            exporters, runtime = (ToOnnx(),), "onnxruntime"

    Attributes:
        exporters: from a torch artifact to the file.
        runtime: that runs it.
        tolerance: of the largest logit.
        networks: names, each tried.
        image_size: of the images they are tried on.
    """

    exporters: tuple[Technique, ...]
    runtime: str
    tolerance: float = 1e-3
    networks: tuple[str, ...] = ("resnet8",)
    image_size: int = 24

    def said_inside(self, file: Path) -> dict[str, str]:
        """The texts that the file holds, by name; overridden where it can hold some."""
        raise NotImplementedError

    def prepared(self, network: str, folder: Path) -> tuple[Artifact, Task]:
        """The network and the images; overridden for one that is trained, or pruned."""
        torch.manual_seed(0)
        job = prepare(write_shapes(folder, size=self.image_size, channels=3, per_class=20), network, image_size=self.image_size)
        return job.artifact, job.task

    @pytest.fixture(scope="class")
    def exported(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Any]:
        """Before, after, and images."""
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
        expected = TorchPredictor(before.module, before.preprocessing)(images)["logits"]
        predictor = load(after.files, self.runtime)
        for count in (1, 5, len(images), 1):
            found = predictor(images[:count])["logits"]
            assert found.shape == expected[:count].shape
            assert np.abs(found - expected[:count]).max() <= self.tolerance * np.abs(expected).max()

    def test_it_says_the_same_in_another_process(self, exported: tuple[Artifact, Artifact, Any], tmp_path: Path) -> None:
        _, after, images = exported
        np.save(tmp_path / "images.npy", images)
        files = json.dumps([str(file.resolve()) for file in after.files])
        command = [sys.executable, "-c", _ELSEWHERE, files, self.runtime, str(tmp_path / "images.npy"), str(tmp_path / "out.npy")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        here = load(after.files, self.runtime)(images)["logits"]
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), here, atol=1e-5 * np.abs(here).max())

    def test_it_holds_class_names_and_preprocessing(self, exported: tuple[Artifact, Artifact, Any]) -> None:
        before, after, _ = exported
        said = self.said_inside(after.files[0])
        assert json.loads(said["planish.class_names"]) == list(before.class_names)
        assert json.loads(said["planish.preprocessing"])["mean"] == pytest.approx(before.preprocessing.mean)
        assert json.loads(said["planish.input_spec"])["height"] == before.input_spec.height
        assert [step["technique"] for step in json.loads(said["planish.lineage"])["steps"]] == [s.technique for s in after.lineage.steps]
