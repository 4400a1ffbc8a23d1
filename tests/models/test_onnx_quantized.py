"""Files that ONNX Runtime's quantizer wrote, read back to float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from torch import nn

from planish.devices.kernels import open_session, silent_options
from planish.errors import ModelError
from planish.models.onnx import convert
from planish.models.onnx.dequantization import dequantize

SIDE = 24


class Net(nn.Module):
    """Convolutions with ReLU, ReLU6 and a sum, pools, a grouped convolution, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.point, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.hidden, self.classifier = nn.Linear(24, 20), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        x = x + self.point(nn.functional.relu6(self.deep(x)))
        x = torch.sigmoid(self.last(x))
        x = torch.relu(self.hidden(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)))
        logits: torch.Tensor = self.classifier(x)
        return logits


def network() -> Net:
    torch.manual_seed(1)
    made = Net().eval()
    with torch.no_grad():
        made.deep.weight *= 8  # so that ReLU6 limits its outputs
    return made


def images(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._batches: Iterator[Any] = iter([{"x": batch[None]} for batch in images(64)])

    def get_next(self) -> Any:
        return next(self._batches, None)


def exported(tmp_path: Path) -> Path:
    file = tmp_path / "float.onnx"
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    torch.onnx.export(
        network(), (torch.from_numpy(images(2)),), str(file), dynamo=False, dynamic_axes=axes, input_names=["x"], output_names=["y"],
        opset_version=17,
    )  # fmt: skip
    return file


def run(model: Any, values: Any) -> Any:
    session = open_session(model.SerializeToString(), silent_options())
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def similar(a: Any, b: Any) -> float:
    """Signal-to-noise ratio in decibels."""
    return float(10 * np.log10(np.square(a).mean() / np.square(a - b).mean()))


FORMS: dict[str, dict[str, Any]] = {
    "qdq, unsigned": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, "per_channel": True},
    "qdq, signed": {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8},
    "qdq, symmetric": {
        "quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8, "per_channel": True,
        "extra_options": {"ActivationSymmetric": True},
    },
    "qoperator, signed": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QInt8},
    "qoperator": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
    "qoperator, per channel": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8, "per_channel": True},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_static(form: str, tmp_path: Path) -> None:
    file = exported(tmp_path)
    quantize_static(str(file), str(tmp_path / "int8.onnx"), Reader(), weight_type=QuantType.QInt8, **FORMS[form])
    compare(onnx.load(str(tmp_path / "int8.onnx")))


def test_a_file_without_exact_kernels_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without VNNI need ``session.x64quantprecision``, with which ONNX Runtime has no ``QGemm`` of signed activations."""
    monkeypatch.setattr("planish.devices.kernels.saturates", lambda: True)
    test_static("qoperator, signed", tmp_path)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic(kind: QuantType, per_channel: bool, tmp_path: Path) -> None:
    file = exported(tmp_path)
    operators = ["Conv", "MatMul", "Gemm"]
    quantize_dynamic(str(file), str(tmp_path / "int8.onnx"), operators, per_channel, weight_type=kind)
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert {"ConvInteger", "MatMulInteger"} <= {node.op_type for node in model.graph.node}
    compare(model)


def compare(model: Any) -> None:
    """The converted network has the layers of the original, weights within half a step of its own, and outputs near those in INT8."""
    original, converted = network(), convert(model).module
    kinds = [nn.Conv2d, nn.Linear, nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.MaxPool2d]
    assert [sum(type(layer) is kind for layer in converted.modules()) for kind in kinds] == [4, 2, 2, 1, 1, 1]
    layers = [[layer for layer in each.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))] for each in (original, converted)]
    for before, after in zip(*layers, strict=True):
        assert before.weight.shape == after.weight.shape
        step = float(before.weight.abs().max()) * 2 / 250
        assert 0 < float((before.weight - after.weight).abs().max()) <= step / 2 + 1e-6
    values = images(40, seed=1)
    rounded = np.concatenate([run(model, value[None]) for value in values])
    with torch.no_grad():
        exact, found = (each(torch.from_numpy(values)).numpy() for each in (original, converted))
    assert similar(rounded, found) > 15
    assert similar(exact, found) > 25


def test_names_of_weights_are_those_before_quantization(tmp_path: Path) -> None:
    file = exported(tmp_path)
    quantize_static(str(file), str(tmp_path / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt8)
    converted = convert(onnx.load(str(tmp_path / "int8.onnx"))).module
    assert {"first", "deep", "point", "last"} <= {name for name, layer in converted.named_modules() if isinstance(layer, nn.Conv2d)}


def test_the_float_file_runs_in_onnx_runtime_and_has_no_integers_left(tmp_path: Path) -> None:
    file = exported(tmp_path)
    quantize_static(str(file), str(tmp_path / "int8.onnx"), Reader(), quant_format=QuantFormat.QOperator)
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert {"QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm"} <= {node.op_type for node in model.graph.node}
    before = model.SerializeToString()
    plain = dequantize(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(plain)
    assert not [tensor.name for tensor in plain.graph.initializer if tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)]
    assert not [node.op_type for node in plain.graph.node if "Q" in node.op_type or "Integer" in node.op_type]
    assert similar(run(model, images(1)), run(plain, images(1))) > 15
    assert dequantize(plain) is plain


def test_products_without_bias(tmp_path: Path) -> None:
    """``QLinearMatMul``, with constants that ONNX Runtime's own quantizer puts into ``QLinearAdd``."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((12, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "m"], ["h"], "product"),
        helper.make_node("Add", ["h", "b"], ["y"], "sum"),
    ]
    constants = {"w": rng.standard_normal((12, 3, 3, 3)).astype(np.float32), "m": weight, "b": bias}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "float.onnx"))
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Reader(), quant_format=QuantFormat.QOperator)
    model = onnx.load(str(tmp_path / "int8.onnx"))
    assert {"QLinearMatMul", "QLinearAdd"} <= {node.op_type for node in model.graph.node}
    linear = next(layer for layer in convert(model).module.modules() if isinstance(layer, nn.Linear))
    np.testing.assert_allclose(linear.weight.detach().numpy().T, weight, atol=np.abs(weight).max() / 127)
    np.testing.assert_allclose(linear.bias.detach().numpy(), bias, atol=np.abs(bias).max() / 127)


def test_weights_that_are_rounded_at_run_time_stay_as_they_are() -> None:
    """As quantization-aware trainings export them: float weights, quantized and dequantized in the graph."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"], axis=0),
        helper.make_node("Conv", ["x", "wd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 4, 4])],
        [
            numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full(4, 0.1, np.float32), "s"),
            numpy_helper.from_array(np.zeros(4, np.int8), "z"),
        ],
    )  # fmt: skip
    converted = convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).module
    (conv,) = (layer for layer in converted.modules() if isinstance(layer, nn.Conv2d))
    np.testing.assert_array_equal(conv.weight.detach().numpy(), weight)


def test_blocks_of_weights_have_scales_of_their_own() -> None:
    values, scales = np.arange(-12, 12, dtype=np.int8).reshape(4, 6), np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=1, block_size=3),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "wd"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(values, "w"), numpy_helper.from_array(scales, "s")],
    )  # fmt: skip
    converted = convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])).module
    (linear,) = (layer for layer in converted.modules() if isinstance(layer, nn.Linear))
    np.testing.assert_array_equal(linear.weight.detach().numpy().T, values * np.repeat(scales, 3, axis=1))


def test_what_is_not_covered_is_named() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round"),
        helper.make_node("QLinearWhere", ["c", "q", "s", "z", "q", "s", "z", "s", "z"], ["r"], "choice", domain="com.microsoft"),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"], "back"),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [
            numpy_helper.from_array(np.array(True), "c"), numpy_helper.from_array(np.array(0.1, np.float32), "s"),
            numpy_helper.from_array(np.array(3, np.uint8), "z"),
        ],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    with pytest.raises(ModelError, match=r"operator QLinearWhere of com\.microsoft \(node choice; output y\)"):
        convert(helper.make_model(graph, opset_imports=opsets))


def between(*nodes: Any, **constants: Any) -> Any:
    """A file whose nodes, from ``q`` to ``r``, work on integers."""
    before = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "round")
    after = helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"], "back")
    constants = {"s": np.array(0.05, np.float32), "z": np.array(100, np.uint8), **constants}
    graph = helper.make_graph(
        [before, *nodes, after], "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_operators_that_move_integers() -> None:
    nodes = [
        helper.make_node("Pad", ["q", "pads", "grey"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2]),
        helper.make_node("Clip", ["m", "low", "high"], ["r"]),
    ]
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    model = between(*nodes, pads=pads, grey=np.array(130, np.uint8), low=np.array(110, np.uint8), high=np.array(120, np.uint8))
    values = images(1)[:, :, :4, :4]
    with torch.no_grad():
        found = convert(model).module(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, run(model, values), atol=0.026)  # half a step
    assert (found.min(), found.max()) == (pytest.approx(0.5), pytest.approx(1.0))


def test_arithmetic_of_integers_is_named() -> None:
    nodes = [helper.make_node("Add", ["q", "one"], ["r"], "brighter")]
    with pytest.raises(ModelError, match=r"operator Add \(node brighter\) computes with quantized integers"):
        convert(between(*nodes, one=np.array(1, np.uint8)))
