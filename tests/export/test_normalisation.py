"""Normalisation by each image's own numbers is part of the file, as that by the data set is."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from export_fakes import SPEC, FakeTask

from planish.artifact import Artifact
from planish.compression import Int8
from planish.compression.calibration import calibration_batches
from planish.devices.kernels import onnxruntime_kernels
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx, ToOpenVino
from planish.export.runtimes.registry import load
from planish.models.batch_norm import reestimate_batch_norm


@pytest.fixture(scope="module", params=["min_max", "z_score"])
def learned(request: pytest.FixtureRequest, network: Artifact, task: FakeTask) -> Artifact:
    """The network of the other tests, its batch norm used to the new numbers."""
    other = replace(
        network, module=copy.deepcopy(network.module), preprocessing=replace(network.preprocessing, normalisation=request.param)
    )
    reestimate_batch_norm(other.module, [images for images, _ in calibration_batches(other, task)()])
    return other


def images_of(task: FakeTask, artifact: Artifact) -> Any:
    images = task.split("validation").images(SPEC, artifact.preprocessing)
    images[1], images[2] = 0, 200  # of one colour
    return images


def test_the_files_agree_with_pytorch(learned: Artifact, task: FakeTask) -> None:
    images = images_of(task, learned)
    expected = TorchPredictor(learned.module, learned.preprocessing)(images)["logits"]
    assert np.isfinite(expected).all()
    exported = ToOnnx().apply(learned, task)
    converted = ToOpenVino().apply(exported, task)
    for files, runtime in ((exported.files, "onnxruntime"), (exported.files, "openvino"), (converted.files, "openvino")):
        for count in (1, len(images)):
            found = load(files, runtime)(images[:count])["logits"]
            np.testing.assert_allclose(found, expected[:count], atol=1e-4 * np.abs(expected).max())


def test_int8_leaves_the_normalisation_in_float(learned: Artifact, task: FakeTask) -> None:
    images = images_of(task, learned)
    expected = TorchPredictor(learned.module, learned.preprocessing)(images)["logits"]
    quantized = Int8().apply(ToOnnx().apply(learned, task), task)
    by_data_set = replace(learned, preprocessing=replace(learned.preprocessing, normalisation="dataset"))
    kernels = onnxruntime_kernels(quantized.files[0])
    plain = onnxruntime_kernels(Int8().apply(ToOnnx().apply(by_data_set, task), task).files[0])
    assert {name: len(layers) for name, layers in kernels.items()} == {name: len(layers) for name, layers in plain.items()}
    graph = onnx.load(str(quantized.files[0])).graph
    made_by = {name: node for node in graph.node for name in node.output}
    normalising = [node for node in graph.node if node.op_type in ("ReduceMin", "ReduceMax", "ReduceMean", "Sqrt")]
    assert normalising
    for node in normalising:
        assert all(made_by[name].op_type != "DequantizeLinear" for name in node.input if name in made_by)
    for runtime in ("onnxruntime", "openvino"):
        found = load(quantized.files, runtime)(images)["logits"]
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9
