"""Whatever is called INT8 runs some layer in integers: every technique that makes such a file counts them in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from export_fakes import FakeTask, trained

from planish.artifact import Artifact
from planish.compression import Int8, QuantizeAware
from planish.devices.kernels import require_integers
from planish.errors import TechniqueError
from planish.export import ToOnnx, ToOpenVino, executorch_file
from planish.export.runtimes.onnxruntime import OnnxRuntime
from planish.export.runtimes.openvino import OpenVino


@pytest.fixture(scope="module")
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture(scope="module")
def network(task: FakeTask) -> Artifact:
    return trained(task)


def test_nothing_in_integers_is_refused() -> None:
    require_integers({"int8": 1, "float": 9}, "OpenVINO")
    with pytest.raises(TechniqueError, match=r"none of 3 .* in OpenVINO"):
        require_integers({"int8": 0, "float": 3}, "OpenVINO")
    with pytest.raises(TechniqueError, match="none of 0"):
        require_integers({"int8": 0, "float": 0}, "OpenVINO")


def test_after_quantization_aware_training(network: Artifact, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = QuantizeAware(epochs=0, calibration_images=8).apply(network, task)
    ToOnnx().apply(learned, task)
    monkeypatch.setattr(OnnxRuntime, "executed_precisions", staticmethod(lambda file: {"int8": 0, "float": 7}))
    ToOnnx().apply(network, task)  # a float network may well run in float
    with pytest.raises(TechniqueError, match="none of 7"):
        ToOnnx().apply(learned, task)


def test_after_conversion_to_openvino(network: Artifact, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = ToOnnx().apply(network, task)
    quantized = Int8(calibration_images=8).apply(exported, task)
    ToOpenVino().apply(quantized, task)
    monkeypatch.setattr(OpenVino, "executed_precisions", staticmethod(lambda file: {"int8": 0, "float": 7}))
    ToOpenVino().apply(exported, task)
    with pytest.raises(TechniqueError, match="none of 7"):
        ToOpenVino().apply(quantized, task)


def test_layers_of_a_converted_graph_that_read_integers() -> None:
    def node(target: str, *args: Any) -> Any:
        return SimpleNamespace(target=target, args=args)

    image, dequantized = node("x"), node("quantized_decomposed.dequantize_per_tensor.default")
    nodes = [image, dequantized, node("aten.conv2d.default", dequantized), node("aten.linear.default", image), node("aten.relu", image)]
    graph = SimpleNamespace(graph=SimpleNamespace(nodes=nodes))
    assert executorch_file._layers_by_input(graph) == {"int8": 1, "float": 1}
