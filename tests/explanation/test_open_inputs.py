"""Files that leave channels and sides open are explained on an input that they take, or with one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.errors import ExportError, ModelError
from planish.explanation.model_file import ModelFile
from planish.explanation.profiles.onnxruntime import profile_onnxruntime


def net(file: Path, shape: list[str | int], channels: int, groups: int = 1, last: bool = False) -> Path:
    weights = numpy_helper.from_array(np.ones((4, channels // groups, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["t" if last else "x", "w"], ["c"], group=groups),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    if last:
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [weights],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
    return file


@pytest.mark.parametrize(
    ("shape", "channels", "groups", "last", "taken"),
    [
        (["N", "C", "H", "W"], 3, 1, False, [1, 3, 224, 224]),
        (["N", "C", "H", "W"], 1, 1, False, [1, 1, 224, 224]),
        (["N", "C", "H", "W"], 4, 4, False, [1, 4, 224, 224]),
        (["N", "C", 32, 48], 6, 1, False, [1, 6, 32, 48]),
        (["N", "H", "W", "C"], 3, 1, True, [1, 224, 224, 3]),
        (["N", "H", "W", 3], 3, 1, True, [1, 224, 224, 3]),
    ],
)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_as_many_channels_as_the_first_convolution_reads(
    tmp_path: Path, shape: list[str | int], channels: int, groups: int, last: bool, taken: list[int], runtime: str
) -> None:
    model = ModelFile(net(tmp_path / "net.onnx", shape, channels, groups, last), runtime)
    assert [sides for _, sides, _ in model.inputs()] == [taken]
    model.load()(model.random_inputs())


def test_what_does_not_run_is_one_line(tmp_path: Path) -> None:
    model = ModelFile(net(tmp_path / "net.onnx", ["N", "C", "H", "W"], 3), "onnxruntime", sides=(5, 20, 20))
    with pytest.raises(ExportError, match=r"does not run on x \(1, 5, 20, 20\).*--data"):
        model.load()(model.random_inputs())


@pytest.mark.parametrize("kind", [TensorProto.BOOL, TensorProto.INT16, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64])
def test_integers_of_all_types_are_fed(tmp_path: Path, kind: int) -> None:
    file = net(tmp_path / "net.onnx", ["N", 3, 8, 8], 3)
    model = onnx.load(str(file))
    model.graph.node.insert(0, helper.make_node("Cast", ["given"], ["x"], to=TensorProto.FLOAT))
    model.graph.input[0].name, model.graph.input[0].type.tensor_type.elem_type = "given", kind
    onnx.save(model, str(file))
    explained = ModelFile(file, "onnxruntime")
    assert [dtype for _, _, dtype in explained.inputs()] == [helper.tensor_dtype_to_np_dtype(kind)]
    explained.load()(explained.random_inputs())


def test_a_batch_of_0_is_not_to_be_asked_for(tmp_path: Path) -> None:
    file = net(tmp_path / "net.onnx", ["N", 3, 8, 8], 3)
    model = onnx.load(str(file))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    onnx.save(model, str(file))
    with pytest.raises(ModelError, match=r"batches of 0 only.*dynamic batch size"):
        ModelFile(file, "onnxruntime").inputs()


_MACS = 6 * 6 * 4 * 3 * 9  # of a 3 x 3 convolution from 3 to 4 channels on 8 x 8 pixels


def test_macs_of_weights_that_nodes_compute(tmp_path: Path) -> None:
    file = net(tmp_path / "net.onnx", ["N", 3, 8, 8], 3)
    model = onnx.load(str(file))
    stored = numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[0]).transpose(2, 3, 1, 0).copy(), "stored")
    model.graph.initializer[0].CopyFrom(stored)
    model.graph.node.insert(0, helper.make_node("Transpose", ["stored"], ["w"], perm=[3, 2, 0, 1]))
    onnx.save(model, str(file))
    assert sum(layer.macs for layer in profile_onnxruntime(ModelFile(file, "onnxruntime")).layers) == _MACS


def test_macs_of_layers_in_functions(tmp_path: Path) -> None:
    file = net(tmp_path / "net.onnx", ["N", 3, 8, 8], 3)
    model = onnx.load(str(file))
    body = [helper.make_node("Conv", ["x", "w"], ["c"])]
    model.functions.append(helper.make_function("mine", "Layer", ["x", "w"], ["c"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Layer", "mine"
    onnx.save(model, str(file))
    layers = profile_onnxruntime(ModelFile(file, "onnxruntime")).layers
    assert sum(layer.macs for layer in layers) == _MACS


def test_the_time_in_a_loop_counts_once(tmp_path: Path) -> None:
    file = net(tmp_path / "net.onnx", ["N", 3, 8, 8], 3)
    model = onnx.load(str(file))
    value = helper.make_tensor_value_info
    inner = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["v"], ["v2"], "inner")]
    body = helper.make_graph(
        inner, "body", [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model.graph.initializer.extend([numpy_helper.from_array(np.int64(3), "times"), numpy_helper.from_array(np.bool_(True), "true")])
    model.graph.node[1].input[0] = "looped"
    model.graph.node.insert(1, helper.make_node("Loop", ["times", "true", "c"], ["looped"], body=body))
    onnx.save(model, str(file))
    names = [layer.op for layer in profile_onnxruntime(ModelFile(file, "onnxruntime")).layers]
    assert "Loop" in names
    assert not {"Relu", "Identity"}.intersection(names)
