"""Files that leave channels and sides open are explained on an input that they take, or with one clear line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.errors import ExportError
from planish.explanation.model_file import ModelFile


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
