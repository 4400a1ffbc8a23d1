"""ONNX files whose weights lie in other files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.errors import ModelError
from planish.files.onnx_reading import data_files, onnx_sha256, read_onnx

WEIGHTS = np.arange(400, dtype=np.float32).reshape(20, 20)


def model() -> Any:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHTS + 1))
    nodes = [constant, helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "c"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 20]) for name in "xy"]
    return helper.make_model(helper.make_graph(nodes, "net", values[:1], values[1:], [numpy_helper.from_array(WEIGHTS, "w")]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "net.onnx"
    onnx.save(
        model(), str(file), save_as_external_data=True, location="net.onnx.data", size_threshold=0, convert_attribute=True
    )  # fmt: skip
    assert file.stat().st_size < WEIGHTS.nbytes
    return file


def test_weights_are_read_from_the_file_beside(file: Path) -> None:
    found = read_onnx(file)
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), WEIGHTS)
    np.testing.assert_array_equal(numpy_helper.to_array(found.graph.node[0].attribute[0].t), WEIGHTS + 1)
    assert data_files(file) == (file.with_name("net.onnx.data"),)


def test_the_hash_is_that_of_all_files(file: Path) -> None:
    before, data = onnx_sha256(file), file.with_name("net.onnx.data")
    content = bytearray(data.read_bytes())
    content[8] += 1
    data.write_bytes(content)
    assert onnx_sha256(file) != before


@pytest.mark.parametrize("read", [read_onnx, data_files, onnx_sha256])
def test_a_missing_file_is_named(file: Path, read: Any) -> None:
    file.with_name("net.onnx.data").unlink()
    with pytest.raises(
        ModelError, match=rf"net\.onnx keeps weights in net\.onnx\.data, which is not there.*copy net\.onnx\.data to {file.parent}"
    ):
        read(file)


def test_a_file_that_was_cut_off_is_named(file: Path) -> None:
    data = file.with_name("net.onnx.data")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"net\.onnx\.data has 1,000 bytes, and net\.onnx reads"):
        read_onnx(file)


@pytest.mark.parametrize("location", ["../net.onnx.data", "/etc/hostname"])
def test_files_elsewhere_are_not_read(file: Path, location: str) -> None:
    found = onnx.load(str(file), load_external_data=False)
    found.graph.initializer[0].external_data[0].value = location
    file.write_bytes(found.SerializeToString())
    with pytest.raises(ModelError, match="outside of its folder"):
        read_onnx(file)


def test_files_with_their_weights_inside_are_hashed_as_they_are(tmp_path: Path) -> None:
    import hashlib

    onnx.save(model(), str(tmp_path / "net.onnx"))
    assert data_files(tmp_path / "net.onnx") == ()
    assert onnx_sha256(tmp_path / "net.onnx") == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
