"""Operators of ONNX as layers of torch: the outputs equal ONNX Runtime's, image by image, for batches of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from planish.errors import ModelError
from planish.models.onnx import convert

RNG = np.random.default_rng(0)
Node = tuple[Any, ...]  # operator, names of constants or arrays after the first input, attributes


def made(
    nodes: Sequence[Node], opset: int = 17, sides: Sequence[Any] = ("N", 4, 9, 12), kind: int = TensorProto.FLOAT, outputs: int = 1
) -> Any:
    """A file whose nodes follow one another; a constant input is an array, and ``None`` stands for one that is left out.

    The text ``"images"`` stands for the input of the file, ``"<2"`` for the output of the node two before.
    """
    graph_nodes, constants = [], []
    for number, (op_type, inputs, attributes) in enumerate(nodes):
        names = []
        for place, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                names.append(f"constant_{number}_{place}")
                constants.append(numpy_helper.from_array(value, names[-1]))
            elif isinstance(value, str) and value.startswith("<"):
                names.append(f"t{number - int(value[1:])}" if number >= int(value[1:]) else "images")
            else:
                names.append(value or "")
        attributes = dict(attributes)
        domain = attributes.pop("domain", "")
        count = attributes.pop("outputs", 1)
        out = [f"t{number}", *(f"t{number}_{i}" for i in range(1, count))]
        graph_nodes.append(helper.make_node(op_type, names, out, f"node_{number}", domain=domain, **attributes))
    last = len(nodes) - 1
    graph = helper.make_graph(
        graph_nodes,
        "operators",
        [helper.make_tensor_value_info("images", kind, sides)],
        [helper.make_tensor_value_info(f"t{last - i}", 0, None) for i in range(outputs)],
        constants,
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def compare(model: Any, shape: Sequence[int] = (4, 9, 12), batch: int = 1, positive: bool = False, nhwc: bool = False) -> nn.Module:
    """Convert, and compare three images at once with ONNX Runtime's outputs, which gets as many as the file takes."""
    images = RNG.standard_normal((3, *shape)).astype(np.float32)
    images = np.abs(images) + 0.1 if positive else images
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(None, {session.get_inputs()[0].name: np.repeat(image[None], batch, axis=0)}) for image in images]
    converted = convert(model, size=(shape[0], shape[1]) if nhwc else (shape[1], shape[2]))
    given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy() if nhwc else images)
    with torch.no_grad():
        found = converted.module(given)
    found = [found] if isinstance(found, torch.Tensor) else list(found.values())
    assert len(found) == len(runs[0])
    for place, values in enumerate(found):
        expected = np.stack([run[place][0] if run[place].ndim else run[place] for run in runs])
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-4, rtol=1e-4)
    return converted.module


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def number(value: float) -> Any:
    return np.array(value, np.float32)


W = {"pads": [1, 1, 1, 1]}
ONE_BY_ONE = {
    "Relu": (), "Sigmoid": (), "Tanh": (), "Softplus": (), "Softsign": (), "HardSwish": (), "Elu": (), "Selu": (), "Celu": (), "Erf": (),
    "Exp": (), "Neg": (), "Abs": (), "Floor": (), "Ceil": (), "Sign": (), "Sin": (), "Cos": (), "LeakyRelu": (), "HardSigmoid": (),
    "ThresholdedRelu": (), "GlobalAveragePool": (), "GlobalMaxPool": (), "Softmax": (), "LogSoftmax": (), "Flatten": (), "Identity": (),
}  # fmt: skip

CASES: dict[str, list[Node]] = {
    "conv": [("Conv", ["<1", floats(8, 4, 3, 3), floats(8)], W)],
    "conv, unequal pads and strides": [("Conv", ["<1", floats(8, 4, 3, 3)], {"pads": [0, 0, 1, 1], "strides": [2, 2]})],
    "conv, groups and dilation": [("Conv", ["<1", floats(8, 2, 3, 3), floats(8)], {"group": 2, "dilations": [2, 2], "pads": [2, 2, 2, 2]})],
    "conv, SAME_UPPER": [("Conv", ["<1", floats(8, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})],
    "conv, SAME_LOWER": [("Conv", ["<1", floats(8, 4, 2, 2)], {"auto_pad": "SAME_LOWER"})],
    "conv, VALID": [("Conv", ["<1", floats(8, 4, 3, 3)], {"auto_pad": "VALID"})],
    "conv and bias apart": [("Conv", ["<1", floats(8, 4, 1, 1)], {}), ("Add", ["<1", floats(1, 8, 1, 1)], {})],
    "fused conv": [
        ("FusedConv", ["<1", floats(8, 4, 1, 1), floats(8)], {"domain": "com.microsoft", "activation": "Relu"}),
        ("FusedConv", ["<1", floats(8, 8, 1, 1), floats(8)], {
            "domain": "com.microsoft", "activation": "LeakyRelu", "activation_params": [0.2],
        }),
    ],
    "fused conv with limits": [
        ("FusedConv", ["<1", floats(8, 4, 1, 1), floats(8)], {
            "domain": "com.microsoft", "activation": "Clip", "activation_params": [-0.2, 0.7],
        }),
    ],
    "fused conv, hard sigmoid": [
        ("FusedConv", ["<1", floats(4, 4, 3, 3), None, "images"], {
            "domain": "com.microsoft", "activation": "HardSigmoid", "activation_params": [0.3, 0.4], **W,
        }),
    ],
    "fused conv, sum": [
        ("FusedConv", ["images", floats(4, 4, 1, 1), floats(4), "images"], {"domain": "com.microsoft", "activation": "Relu"})
    ],
    "transposed conv": [("ConvTranspose", ["<1", floats(4, 3, 3, 3), floats(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1]})],
    "transposed conv, output padding": [
        ("ConvTranspose", ["<1", floats(4, 1, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1], "group": 4})
    ],
    "transposed conv, unequal pads": [("ConvTranspose", ["<1", floats(4, 3, 4, 4)], {"strides": [2, 2], "pads": [0, 1, 2, 1]})],
    "transposed conv, output shape": [("ConvTranspose", ["<1", floats(4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [18, 24]})],
    "transposed conv, SAME_UPPER": [("ConvTranspose", ["<1", floats(4, 3, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"})],
    "batch norm": [("BatchNormalization", ["<1", floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.5], {"epsilon": 1e-3})],
    "instance norm": [("InstanceNormalization", ["<1", floats(4), floats(4)], {})],
    "layer norm": [("LayerNormalization", ["<1", floats(9, 12), floats(9, 12)], {"axis": 2})],
    "layer norm over channels": [
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}),
        ("LayerNormalization", ["<1", floats(4)], {}),
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
    ],
    "local response norm": [("LRN", ["<1"], {"size": 3, "alpha": 0.1})],
    "lp norm": [("LpNormalization", ["<1"], {"axis": 1})],
    "gemm": [("Flatten", ["<1"], {}), ("Gemm", ["<1", floats(432, 5), floats(5)], {"alpha": 0.5, "beta": 2.0})],
    "gemm, transposed": [("Flatten", ["<1"], {}), ("Gemm", ["<1", floats(5, 432), floats(1, 5)], {"transB": 1})],
    "matmul and bias": [("Flatten", ["<1"], {}), ("MatMul", ["<1", floats(432, 5)], {}), ("Add", [floats(5), "<1"], {})],
    "matmul of two tensors": [("Transpose", ["<1"], {"perm": [0, 1, 3, 2]}), ("MatMul", ["<1", "images"], {})],
    "fused matmul": [("FusedMatMul", ["images", "images"], {"domain": "com.microsoft", "alpha": 0.3, "transA": 1})],
    "einsum": [("Einsum", ["images", floats(4, 6)], {"equation": "nchw,cd->ndhw"})],
    "max pool": [("MaxPool", ["<1"], {"kernel_shape": [3, 3], "strides": [2, 2], **W})],
    "max pool, unequal pads": [("MaxPool", ["<1"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]})],
    "max pool, zeros for pads": [("Relu", ["<1"], {}), ("MaxPool", ["<1"], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"})],
    "max pool, ceil": [("MaxPool", ["<1"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1})],
    "average pool": [("AveragePool", ["<1"], {"kernel_shape": [3, 3], **W})],
    "average pool, with pads": [("AveragePool", ["<1"], {"kernel_shape": [3, 3], "count_include_pad": 1, **W})],
    "average pool, unequal pads": [("AveragePool", ["<1"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]})],
    "average pool, unequal with pads": [("AveragePool", ["<1"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1})],
    "clip": [("Clip", ["<1", number(-0.3), number(0.4)], {})],
    "clip from below": [("Clip", ["<1", number(-0.3)], {})],
    "prelu per channel": [("PRelu", ["<1", floats(4, 1, 1)], {})],
    "prelu, one slope": [("PRelu", ["<1", floats(1)], {})],
    "prelu per pixel": [("PRelu", ["<1", floats(4, 9, 12)], {})],
    "hard swish in steps": [
        ("Add", ["<1", number(3)], {}),
        ("Clip", ["<1", number(0), number(6)], {}),
        ("Mul", ["images", "<1"], {}),
        ("Div", ["<1", number(6)], {}),
    ],
    "gelu in steps": [
        ("Div", ["<1", number(2**0.5)], {}),
        ("Erf", ["<1"], {}),
        ("Add", ["<1", number(1)], {}),
        ("Mul", ["images", "<1"], {}),
        ("Mul", ["<1", number(0.5)], {}),
    ],
    "swish in steps": [("Sigmoid", ["<1"], {}), ("Mul", ["images", "<1"], {})],
    "mish in steps": [("Softplus", ["<1"], {}), ("Tanh", ["<1"], {}), ("Mul", ["<1", "images"], {})],
    "quick gelu": [("QuickGelu", ["<1"], {"domain": "com.microsoft"})],
    "scale and shift": [("Mul", ["<1", floats(1, 4, 1, 1)], {}), ("Add", ["<1", floats(4, 1, 1)], {}), ("Sub", [number(1), "<1"], {})],
    "division": [("Div", ["<1", floats(1, 4, 1, 1) + 5], {}), ("Pow", ["<1", number(2)], {})],
    "maximum and minimum": [("Max", ["<1", floats(4, 1, 1)], {}), ("Min", ["<1", "images", number(0.2)], {})],
    "sum and mean": [("Sum", ["images", "images", floats(1)], {}), ("Mean", ["images", "<1"], {})],
    "where": [("Greater", ["<1", number(0)], {}), ("Where", ["<1", "images", number(-1)], {})],
    "mean over space": [("ReduceMean", ["<1"], {"axes": [2, 3], "keepdims": 0})],
    "mean over channels": [("ReduceMean", ["<1"], {"axes": [1]})],
    "max over one side": [("ReduceMax", ["<1"], {"axes": [-1], "keepdims": 0})],
    "norms": [("ReduceL2", ["<1"], {"axes": [1]}), ("Mul", ["<1", "images"], {})],
    "argmax": [("ArgMax", ["<1"], {"axis": 1, "keepdims": 0}), ("Cast", ["<1"], {"to": TensorProto.FLOAT})],
    "slice": [("Slice", ["<1", ints(1), ints(2**62), ints(2), ints(2)], {})],
    "slice from the end": [("Slice", ["<1", ints(-3, 0), ints(-1, 2), ints(3, 1)], {})],
    "half of the channels": [("Slice", ["<1", ints(2), ints(4), ints(1)], {})],
    "reversed": [("Slice", ["<1", ints(-1), ints(-(2**62)), ints(3), ints(-1)], {})],
    "split, equal": [("Split", ["<1", ints(2, 2)], {"axis": 1, "outputs": 2}), ("Concat", ["t0_1", "t0"], {"axis": 1})],
    "split, unequal": [("Split", ["<1", ints(3, 1)], {"axis": 1, "outputs": 2}), ("Mul", ["t0", "t0_1"], {})],
    "concat with a constant": [("Flatten", ["<1"], {}), ("Concat", ["<1", floats(1, 3)], {"axis": 1})],
    "gather": [("Gather", ["<1", ints(2, 0, 1)], {"axis": 1})],
    "gather one": [("Gather", ["<1", np.array(-1)], {"axis": 1})],
    "gather at places": [
        ("Transpose", ["<1"], {"perm": [2, 3, 0, 1]}),
        ("GatherND", ["<1", np.array([[[0, 3], [-1, 2], [4, 4]], [[8, 11], [1, -2], [0, 0]]])], {}),
        ("Transpose", ["<1"], {"perm": [2, 3, 0, 1]}),
    ],
    "gather one place": [("Transpose", ["<1"], {"perm": [1, 2, 0, 3]}), ("GatherND", ["<1", ints(3, -2)], {})],
    "sums along an axis": [("CumSum", ["<1", np.array(2)], {})],
    "sums from the end": [("CumSum", ["<1", np.array(-1)], {"reverse": 1, "exclusive": 1})],
    "sums, channels last": [
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}), ("CumSum", ["<1", np.array(1)], {"exclusive": 1}),
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
    ],
    "pad": [("Pad", ["<1", ints(0, 0, 1, 2, 0, 0, 0, 1), number(0.5)], {})],
    "pad, reflect": [("Pad", ["<1", ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"})],
    "pad, edge": [("Pad", ["<1", ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"})],
    "pad channels": [("Pad", ["<1", ints(0, 0, 0, 0, 0, 4, 0, 0)], {})],
    "reshape by 0 and -1": [("Reshape", ["<1", ints(0, -1)], {})],
    "reshape, channels last": [("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}), ("Reshape", ["<1", ints(0, -1, 4)], {})],
    "channel shuffle": [
        ("Reshape", ["<1", ints(0, 2, 2, 9, 12)], {}),
        ("Transpose", ["<1"], {"perm": [0, 2, 1, 3, 4]}),
        ("Reshape", ["<1", ints(0, 4, 9, 12)], {}),
    ],
    "shape arithmetic": [
        ("Shape", ["<1"], {}),
        ("Gather", ["<1", np.array(0)], {}),
        ("Unsqueeze", ["<1", ints(0)], {}),
        ("Concat", ["<1", ints(2, 2, -1)], {"axis": 0}),
        ("Reshape", ["images", "<1"], {}),
    ],
    "windows": [
        ("Reshape", ["<1", ints(0, 4, 3, 3, 4, 3)], {}),
        ("Transpose", ["<1"], {"perm": [0, 2, 4, 1, 3, 5]}),
        ("Reshape", ["<1", ints(-1, 4, 9)], {}),
        ("Softmax", ["<1"], {}),
        ("Reshape", ["<1", ints(-1, 12, 36)], {}),
    ],
    "repeated for each image": [
        ("Shape", ["<1"], {}),
        ("Gather", ["<1", ints(0)], {}),
        ("Concat", ["<1", ints(1, 9, 12)], {"axis": 0}),
        ("Expand", [floats(1, 1, 9, 12), "<1"], {}),
        ("Concat", ["<1", "images"], {"axis": 1}),
    ],
    "squeezed and unsqueezed": [
        ("GlobalAveragePool", ["<1"], {}), ("Squeeze", ["<1", ints(2, 3)], {}), ("Unsqueeze", ["<1", ints(1, 3)], {}),
        ("Mul", ["<1", floats(1, 1, 4, 1)], {}),
    ],
    "depth to space": [("DepthToSpace", ["<1"], {"blocksize": 2})],
    "depth to space, CRD": [("DepthToSpace", ["<1"], {"blocksize": 2, "mode": "CRD"})],
    "space to depth": [("SpaceToDepth", ["<1"], {"blocksize": 3})],
    "tile": [("Tile", ["<1", ints(1, 2, 1, 3)], {})],
    "expand": [("GlobalAveragePool", ["<1"], {}), ("Expand", ["<1", ints(1, 4, 5, 6)], {})],
}  # fmt: skip
SCALES = np.array([1, 1, 2, 2], np.float32)
for mode, coordinates, nearest in (
    ("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"), ("linear", "half_pixel", "floor"),
    ("linear", "pytorch_half_pixel", "floor"), ("linear", "align_corners", "floor"), ("cubic", "half_pixel", "floor"),
):  # fmt: skip
    options = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    CASES[f"resize by scales, {mode}, {coordinates}"] = [("Resize", ["<1", None, SCALES], options)]
    CASES[f"resize to a size, {mode}, {coordinates}"] = [("Resize", ["<1", None, None, ints(1, 4, 9, 24)], options)]
CASES["resize to a size that is no multiple"] = [("Resize", ["<1", None, None, ints(1, 4, 13, 7)], {"mode": "linear"})]
del CASES["resize to a size, nearest, half_pixel"]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", [*ONE_BY_ONE, *CASES])
def test_operator(name: str, static: bool) -> None:
    nodes = CASES.get(name) or [(name, ["<1"], {})]
    shape = (16, 9, 12) if name.startswith("depth") else (4, 9, 12)
    if "resize to" in name and not static:  # the size of the batch stands in the constant
        pytest.skip("the file takes one image")
    compare(made(nodes, sides=(1 if static else "N", *shape)), shape)


@pytest.mark.parametrize("name", ["Sqrt", "Log", "Reciprocal"])
def test_operator_of_positive_numbers(name: str) -> None:
    compare(made([(name, ["<1"], {})]), positive=True)


@pytest.mark.parametrize(
    ("opset", "nodes"),
    [
        (18, [("Split", ["<1"], {"axis": 3, "num_outputs": 2, "outputs": 2}), ("Add", ["t0", "t0_1"], {})]),
        (18, [("ReduceMean", ["<1", ints(2, 3)], {"keepdims": 0})]),
        (18, [("Pad", ["<1", ints(1, 1), None, ints(3)], {"mode": "edge"})]),
        (18, [("Mish", ["<1"], {})]),
        (20, [("Gelu", ["<1"], {"approximate": "tanh"})]),
        (21, [("GroupNormalization", ["<1", floats(4), floats(4)], {"num_groups": 2})]),
        (11, [("Softmax", ["<1"], {"axis": 1})]),
        (11, [("Squeeze", ["<1"], {"axes": [1]}), ("Unsqueeze", ["<1"], {"axes": [1]})]),
        (9, [("Slice", ["<1"], {"starts": [1, 2], "ends": [9, 10], "axes": [2, 3]})]),
        (9, [("Clip", ["<1"], {"min": 0.0, "max": 6.0})]),
        (9, [("Pad", ["<1"], {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0})]),
        (9, [("Upsample", ["<1", SCALES], {"mode": "nearest"})]),
        (10, [("Resize", ["<1", SCALES], {"mode": "nearest"})]),
        (9, [("Dropout", ["<1"], {"ratio": 0.5})]),
    ],
)  # fmt: skip
def test_other_opsets(opset: int, nodes: list[Node]) -> None:
    shape = (1, 9, 12) if nodes[0][0] == "Squeeze" else (4, 9, 12)
    compare(made(nodes, opset, sides=("N", *shape)), shape)


def test_a_batch_that_is_written_into_the_file() -> None:
    nodes = [("Reshape", ["<1", ints(2, 36, 12)], {}), ("MatMul", ["<1", floats(12, 5)], {}), ("Reshape", ["<1", ints(2, 180)], {})]
    compare(made(nodes, sides=(2, 4, 9, 12)), batch=2)


def test_several_outputs() -> None:
    nodes = [("Conv", ["<1", floats(3, 4, 1, 1)], {}), ("Relu", ["<1"], {}), ("GlobalAveragePool", ["<1"], {})]
    compare(made(nodes, outputs=2))


def test_half_precision_becomes_float32() -> None:
    model = made([("Conv", ["<1", floats(8, 4, 3, 3).astype(np.float16)], {}), ("Relu", ["<1"], {})], kind=TensorProto.FLOAT16)
    module = convert(model).module
    images = floats(2, 4, 9, 12)
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    expected = torch.relu(torch.nn.functional.conv2d(torch.from_numpy(images), torch.from_numpy(weight)))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    torch.testing.assert_close(module(torch.from_numpy(images)), expected)


def test_initialisers_as_inputs_and_a_constant_condition() -> None:
    model = made([("Conv", ["<1", floats(3, 4, 1, 1)], {}), ("Relu", ["<1"], {})])
    model.graph.input.append(helper.make_tensor_value_info("constant_0_1", TensorProto.FLOAT, [3, 4, 1, 1]))
    branches = {
        branch: helper.make_graph([helper.make_node(op, ["t1"], ["inner"])], branch, [], [helper.make_tensor_value_info("inner", 1, None)])
        for branch, op in (("then_branch", "Neg"), ("else_branch", "Exp"))
    }
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "condition"))
    model.graph.node.append(helper.make_node("If", ["condition"], ["chosen"], **branches))
    model.graph.output[0].name = "chosen"
    compare(model)


def test_layers_are_those_of_torch() -> None:
    nodes = [
        ("Conv", ["<1", floats(8, 4, 3, 3)], {}),
        ("Add", ["<1", floats(1, 8, 1, 1)], {}),
        ("BatchNormalization", ["<1", floats(8), floats(8), floats(8), np.abs(floats(8)) + 1], {}),
        ("Clip", ["<1", number(0), number(6)], {}),
        ("Sigmoid", ["<1"], {}),
        ("Mul", ["<1", "<2"], {}),
        ("ReduceMean", ["<1"], {"axes": [2, 3], "keepdims": 0}),
        ("MatMul", ["<1", floats(8, 5)], {}),
        ("Add", ["<1", floats(5)], {}),
    ]
    module = compare(made(nodes))
    kinds = [type(layer) for layer in module.modules()][1:]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.AdaptiveAvgPool2d, nn.Linear, nn.SiLU]
    assert {type(p) for p in module.parameters()} == {nn.Parameter}
    assert len(list(module.parameters())) == 6
    assert len(list(module.buffers())) == 3


def test_a_shared_layer_stays_one_layer() -> None:
    weight = floats(4, 4, 1, 1)
    model = made([("Conv", ["<1", weight], {}), ("Relu", ["<1"], {}), ("Conv", ["<1", weight], {})])
    model.graph.node[2].input[1] = model.graph.node[0].input[1]
    module = compare(model)
    assert len(list(module.parameters())) == 1


def test_places_of_each_image() -> None:
    places = np.array([[[3, 1], [0, -1]]])
    compare(made([("GatherND", ["<1", places], {"batch_dims": 1})], sides=(1, 4, 9, 12)))
    with pytest.raises(ModelError, match=r"GatherND of certain images of a batch \(node node_0; output t0\)"):
        convert(made([("GatherND", ["<1", places[0]], {})]))
    with pytest.raises(ModelError, match="CumSum over the images of a batch"):
        convert(made([("CumSum", ["<1", np.array(0)], {})]))


def test_batch_norm_in_steps_is_folded_into_the_layer() -> None:
    """As Keras writes it, with the channels last: bias, mean, scale, shift; a pad of zeros, and a depthwise convolution."""
    nodes = [
        ("Pad", ["<1", ints(0, 3, 3, 0, 0, 3, 3, 0)], {}),
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["<1", floats(8, 3, 7, 7)], {"strides": [2, 2]}),
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["<1", floats(8)], {}),
        ("Sub", ["<1", floats(8)], {}),
        ("Div", ["<1", np.abs(floats(1, 1, 1, 8)) + 0.5], {}),
        ("Mul", [floats(8), "<1"], {}),
        ("Add", ["<1", floats(1, 1, 8)], {}),
        ("Relu", ["<1"], {}),
        ("Pad", ["<1", ints(0, 0, 0, 0, 0, 1, 1, 0)], {}),
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["<1", floats(8, 1, 3, 3)], {"group": 8, "strides": [2, 2]}),
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}),
        ("Mul", ["<1", floats(8)], {}),
        ("Add", ["<1", floats(8)], {}),
        ("Clip", ["<1", number(0), number(6)], {}),
        ("ReduceMean", ["<1"], {"axes": [1, 2], "keepdims": 0}),
        ("MatMul", ["<1", floats(8, 5)], {}),
        ("Add", ["<1", floats(5)], {}),
    ]
    module = compare(made(nodes, sides=("N", 14, 18, 3)), (14, 18, 3), nhwc=True)
    kinds = [type(layer) for layer in module.modules()][1:]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU6, nn.AdaptiveAvgPool2d, nn.Linear]
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.padding for conv in convolutions] == [(3, 3), (0, 0)]
    assert len(list(module.parameters())) == 6


def test_a_shared_layer_is_not_changed_for_one_of_its_places() -> None:
    weight, scale = floats(4, 4, 1, 1), floats(1, 4, 1, 1)
    for more in ([("Add", ["<1", scale], {})], [("Mul", ["<1", scale], {})]):
        model = made([("Conv", ["<1", weight], {}), *more, ("Conv", ["<1", weight], {})])
        model.graph.node[2].input[1] = model.graph.node[0].input[1]
        compare(model)


def test_a_scale_after_a_transposed_convolution() -> None:
    nodes = [
        ("ConvTranspose", ["<1", floats(4, 3, 3, 3), floats(3)], {"strides": [2, 2]}),
        ("Mul", ["<1", floats(3, 1, 1)], {}),
        ("ConvTranspose", ["<1", floats(3, 1, 3, 3)], {"group": 3}),
        ("Mul", ["<1", floats(3, 1, 1)], {}),
    ]
    compare(made(nodes))


def test_transposes_of_an_nhwc_file_vanish() -> None:
    nodes = [
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["<1", floats(8, 3, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}),
        ("Add", ["<1", floats(8)], {}),
        ("Relu", ["<1"], {}),
        ("PRelu", ["<1", floats(1, 1, 8)], {}),
        ("Transpose", ["<1"], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["<1", floats(8, 1, 3, 3)], {"group": 8, "auto_pad": "SAME_UPPER"}),
        ("Transpose", ["<1"], {"perm": [0, 2, 3, 1]}),
        ("Pad", ["<1", ints(0, 1, 0, 0, 0, 0, 1, 0)], {}),
        ("Slice", ["<1", ints(1), ints(6), ints(1)], {}),
        ("Concat", ["<1", "<1"], {"axis": 3}),
        ("Mul", ["<1", floats(16)], {}),
        ("Softmax", ["<1"], {"axis": -1}),
        ("ReduceMean", ["<1"], {"axes": [1, 2], "keepdims": 0}),
        ("MatMul", ["<1", floats(16, 5)], {}),
    ]
    module = compare(made(nodes, sides=("N", 9, 12, 3)), (9, 12, 3), nhwc=True)
    assert not [node for node in module.graph.nodes if node.target is torch.permute]


def test_what_is_not_covered_is_named() -> None:
    nodes = [("Conv", ["<1", floats(3, 4, 1, 1)], {}), ("Relu", ["<1"], {}), ("Det", ["<1"], {})]
    model = made(nodes, outputs=2)
    with pytest.raises(ModelError, match=r"operator Det \(node node_2; output t2\).*these outputs do not depend on it: t1"):
        convert(model)
    assert isinstance(convert(model, outputs=["t1"]).module, nn.Module)


def test_training_mode_batch_norm_is_not_covered() -> None:
    nodes = [("BatchNormalization", ["<1", floats(4), floats(4), floats(4), np.abs(floats(4))], {"training_mode": 1, "outputs": 3})]
    with pytest.raises(ModelError, match="in training mode"):
        convert(made(nodes))


def test_inputs_that_are_no_images() -> None:
    with pytest.raises(ModelError, match="2 axes"):
        convert(made([("Relu", ["<1"], {})], sides=("N", 12)))
