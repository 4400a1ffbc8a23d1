"""The line that a library's error is reported as gives the cause."""

from __future__ import annotations

from pathlib import Path

import onnx
import openvino
import pytest
from onnx import TensorProto, helper

from planish.errors import first_line


@pytest.mark.runtime_openvino
def test_openvino_names_the_operation_that_it_lacks(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Swish9", ["x"], ["y"], domain="my.company")], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.company", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(tmp_path / "net.onnx"))
    with pytest.raises(Exception, match="Swish9") as found:
        openvino.Core().read_model(str(tmp_path / "net.onnx"))
    assert first_line(found.value) == "No conversion rule found for operations: my.company.Swish9"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Exception from src/a.cpp:84:\nCheck 'false' failed at src/b.cpp:47:\nLoading input model\nUnsupported type\n",
            "Unsupported type",
        ),
        ("Exception from src/a.cpp:84:\n", "Exception from src/a.cpp:84:"),
        ("While validating node 'a':\nShapes differ", "While validating node 'a': Shapes differ"),
        ("one\ntwo", "one"),
        ("", "ValueError"),
    ],
)
def test_lines_without_a_cause_are_left_out(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line
