from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask, trained
from onnx import numpy_helper

from planish.artifact import Artifact
from planish.compression import Int8
from planish.devices.kernels import onnxruntime_kernels
from planish.errors import TechniqueError
from planish.export.runtimes.registry import load
from planish.progress import Progress, listening
from planish.technique import resolve


@pytest.fixture(scope="module")
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture(scope="module")
def exported(task: FakeTask) -> Artifact:
    return resolve("to_onnx")().apply(trained(task), task)


@pytest.fixture(scope="module")
def quantized(exported: Artifact, task: FakeTask) -> Artifact:
    return Int8().apply(exported, task)


def _logits(artifact: Artifact, images: Any) -> Any:
    return load(artifact.files, "onnxruntime")(images)["logits"]


@pytest.mark.parametrize(
    "technique",
    [Int8(), Int8(method="percentile", calibration_images=24), Int8(method="entropy"), Int8(method="mse"), Int8(per_channel=False)],
)
def test_outputs_stay_close_and_classes_the_same(exported: Artifact, task: FakeTask, technique: Int8) -> None:
    images = task.split("validation").images(SPEC, PREPROCESSING)
    before, after = _logits(exported, images), _logits(technique.apply(exported, task), images)
    assert 0 < np.abs(after - before).max() < 0.15 * np.abs(before).max()
    assert (after.argmax(1) == before.argmax(1)).mean() > 0.95


def test_integer_kernels_run_and_the_notes_say_so(quantized: Artifact) -> None:
    kernels = onnxruntime_kernels(quantized.files[0])
    assert (len(kernels["int8"]), len(kernels["float"])) == (7, 0)
    assert "7 of 7 convolution and linear layers run integer kernels" in quantized.lineage.steps[-1].notes
    assert quantized.facts["precision"] == "int8"


def test_weights_are_signed_with_a_scale_a_channel_and_activations_unsigned(quantized: Artifact, exported: Artifact) -> None:
    graph = onnx.load(str(quantized.files[0])).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    floats = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(exported.files[0])).graph.initializer}
    stored = {name: t for name, t in tensors.items() if t.dtype == np.int8 and t.ndim == 4}
    assert len(stored) == 6
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored]
    assert len(weights) == 6
    for node in weights:
        scale = tensors[node.input[1]]
        back = stored[node.input[0]] * scale.reshape(-1, 1, 1, 1)
        original = floats[node.input[0].removesuffix("_quantized")]
        assert scale.shape == (len(original),)
        assert (np.abs(back - original) <= scale.reshape(-1, 1, 1, 1) * 0.5001 + 1e-7).all(), "at most half a step"
    activations = [tensors[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(activations) >= 7, "each layer has one that it reads"
    assert set(activations) == {np.dtype(np.uint8)}


def test_pixels_are_normalised_in_float_and_logits_are_float(quantized: Artifact) -> None:
    graph = onnx.load(str(quantized.files[0])).graph
    made_by = {out: node.op_type for node in graph.node for out in node.output}
    assert made_by["logits"] == "Gemm"
    head = [node.op_type for node in graph.node][: [n.op_type for n in graph.node].index("Conv")]
    assert head.count("Mul") == head.count("Add") == 1
    multiplied = next(node for node in graph.node if node.op_type == "Mul")
    assert made_by[multiplied.input[0]] == "Cast"


def test_metadata_is_kept_and_the_size_shrinks(quantized: Artifact, exported: Artifact) -> None:
    said = {p.key: p.value for p in onnx.load(str(quantized.files[0])).metadata_props}
    assert {"planish.class_names", "planish.preprocessing", "planish.input_spec"} <= set(said)
    assert '"int8"' in said["planish.lineage"]


def test_nothing_is_printed_and_progress_is_told(
    exported: Artifact, task: FakeTask, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Progress] = []
    with listening(told.append):
        Int8(calibration_images=20).apply(exported, task)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert [p.done for p in told if p.stage == "calibrating INT8"][-1] == 20
    assert told[-1].done == told[-1].total > 3  # layers whose biases are corrected


def test_a_file_without_layers_is_refused(exported: Artifact, task: FakeTask, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT), helper.make_node("ReduceMean", ["x"], ["logits"])],
        "none",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(tmp_path / "m.onnx"))
    with pytest.raises(TechniqueError, match="no convolution"):
        Int8().apply(replace(exported, files=(tmp_path / "m.onnx",)), task)
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(TechniqueError, match="cannot handle"):
        Int8().apply(replace(exported, files=(tmp_path / "m.onnx",)), task)


def test_calibration_images_only(exported: Artifact, task: FakeTask) -> None:
    lonely = FakeTask()
    del lonely.splits["validation"]
    torch.manual_seed(0)
    assert Int8(calibration_images=8).apply(exported, lonely).facts["precision"] == "int8"  # type: ignore[arg-type]
