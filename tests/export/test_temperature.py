"""A temperature in the file: the same predictions, and the probabilities that fit validation best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_fakes import FakeTask

from planish.artifact import Artifact
from planish.compression import Int8
from planish.data.normalisation import Normalise
from planish.evaluation.metrics.calibration import fit_temperature
from planish.export import Temperature, ToOnnx, ToOpenVino
from planish.export.runtimes.registry import load
from planish.plan import Plan


@pytest.fixture(scope="module")
def uncertain(network: Artifact) -> Artifact:
    """The trained network, mixed up a little, so that it makes mistakes."""
    module = torch.nn.Sequential(network.module, _Shaken())
    return replace(network, module=module.eval())


class _Shaken(torch.nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return 9 * torch.sin(3 * logits) + logits


def validation(artifact: Artifact, task: FakeTask) -> tuple[np.ndarray, np.ndarray]:
    split = task.split("validation")
    return split.images(artifact.input_spec, artifact.preprocessing), split.targets


def in_torch(artifact: Artifact, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return artifact.module(Normalise.of(artifact.preprocessing)(torch.from_numpy(images))).numpy()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_logits_are_pytorchs_divided_by_it_in_every_runtime(runtime: str, uncertain: Artifact, task: FakeTask) -> None:
    steps = [ToOnnx(), Temperature(), *[ToOpenVino()] * (runtime == "openvino")]
    made = Plan(*steps).apply(uncertain, task)
    images, targets = validation(uncertain, task)
    expected = in_torch(uncertain, images)
    temperature = made.lineage.steps[1].structure["temperature"]
    assert temperature == pytest.approx(fit_temperature(expected, targets).value, rel=1e-3)
    assert abs(np.log(temperature)) > 0.1, "a temperature of 1 would show nothing"
    found = load(made.files, runtime)(images)["logits"]
    np.testing.assert_allclose(found, expected / temperature, rtol=1e-4, atol=1e-4 * np.abs(expected / temperature).max())
    assert (found.argmax(1) == expected.argmax(1)).all()
    assert fit_temperature(found, targets).value == pytest.approx(1, abs=1e-3)


def test_after_int8_it_is_the_one_of_the_rounded_model(uncertain: Artifact, task: FakeTask) -> None:
    images, targets = validation(uncertain, task)
    rounded = Plan(ToOnnx(), Int8()).apply(uncertain, task)
    made = Temperature().apply(rounded, task)
    before, after = (load(a.files, "onnxruntime")(images)["logits"] for a in (rounded, made))
    temperature = fit_temperature(before, targets).value
    assert made.lineage.steps[-1].structure == {"temperature": pytest.approx(temperature)}
    np.testing.assert_allclose(after, before / temperature, rtol=1e-6)
    assert (after.argmax(1) == before.argmax(1)).all()
    assert made.facts == rounded.facts


def test_int8_after_it_leaves_the_division_float(uncertain: Artifact, task: FakeTask) -> None:
    made = Plan(ToOnnx(), Temperature(), Int8()).apply(uncertain, task)
    graph = onnx.load(str(made.files[0])).graph
    assert graph.node[-1].op_type == "Div"
    assert graph.node[-1].output[0] == "logits"


def test_a_file_that_is_calibrated_twice_is_divided_by_1(uncertain: Artifact, task: FakeTask) -> None:
    made = Plan(ToOnnx(), Temperature(), Temperature()).apply(uncertain, task)
    onnx.checker.check_model(onnx.load(str(made.files[0])))
    assert made.lineage.steps[-1].structure["temperature"] == pytest.approx(1, abs=1e-3)


def test_the_file_says_so(uncertain: Artifact, task: FakeTask) -> None:
    made = Plan(ToOnnx(), Temperature()).apply(uncertain, task)
    said = {p.key: p.value for p in onnx.load(str(made.files[0])).metadata_props}
    assert '"temperature"' in said["planish.lineage"]
    assert set(said) == {f"planish.{key}" for key in ("class_names", "input_spec", "preprocessing", "lineage")}
    assert "fitted on 36 validation images" in made.lineage.steps[-1].notes
