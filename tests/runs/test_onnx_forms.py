"""ONNX files in the forms that exporters of all ages write: the same answers once they are fed pixels, and INT8 that runs in integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.compression import Int8
from planish.devices.kernels import onnxruntime_kernels
from planish.errors import ModelError, TechniqueError
from planish.export import ToOpenVino
from planish.export.onnx.cleanup import clean_up
from planish.export.onnx.onnx_file import _strip
from planish.export.runtimes.registry import load
from planish.files.onnx_nodes import readers
from planish.progress import collecting_notes
from planish.runs.external_onnx import file_job
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job

SIDE, CLASSES = 16, 3
MEAN, STD = 0.4, 0.3


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=12, size=SIDE, channels=3)


class Net:
    """Convolution, ReLU, mean over places, linear layer; ``ending`` comes after it."""

    def __init__(self, kind: Any = np.float32, batch: int | str = "N", side: int | str = SIDE, channels: int | str = 3) -> None:
        rng = np.random.default_rng(0)
        self.kind, self.shape = kind, [batch, channels, side, side]
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.add("Conv", ["x", self.constant("w", rng.normal(0, 0.3, (8, 3, 3, 3))), self.constant("b", rng.normal(0, 0.1, 8))], "c")
        self.add("Relu", ["c"], "r")
        self.add("GlobalAveragePool", ["r"], "p")
        self.add("Flatten", ["p"], "f")
        self.weight, self.bias = rng.normal(0, 1, (CLASSES, 8)), rng.normal(0, 1, CLASSES)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: Any, kind: Any = None) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values).astype(kind or self.kind), name))
        return name

    def linear(self, bias: Any = None, **attributes: Any) -> str:
        shape = self.constant("fb", self.bias if bias is None else bias)
        return self.add("Gemm", ["f", self.constant("fw", self.weight), shape], "y", transB=1, **attributes)

    def save(
        self, file: Path, output: str = "y", shape: Any = ("N", CLASSES), opset: int = 13, ir: int = 8, others: Any = (), kind: Any = None
    ) -> Path:
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(self.kind))
        inputs = [helper.make_tensor_value_info("x", elem, self.shape)]
        if ir < 4:
            inputs += [helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in self.constants]
        outputs = [helper.make_tensor_value_info(output, kind or elem, shape), *others]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), file)
        return file


def answers(job: Job) -> Any:
    return load(job.artifact.files, "onnxruntime")(pixels(job))["logits"]


def pixels(job: Job) -> Any:
    return job.task.split("train").images(job.artifact.input_spec, job.artifact.preprocessing)


def expected(job: Job, logits_file: Path) -> Any:
    """What ONNX Runtime makes of a file that was left alone."""
    session = onnxruntime.InferenceSession(str(logits_file), providers=["CPUExecutionProvider"])
    images = ((pixels(job) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return session.run(None, {"x": images})[0]


def opened(data: Path, file: Path) -> tuple[Job, list[str]]:
    with collecting_notes() as notes:
        return file_job(data, ModelSettings(str(file), mean=[MEAN], std=[STD])), notes


def gemm(**attributes: Any) -> Callable[[Net], str]:
    return lambda net: net.linear(**attributes)


def hand_softmax(net: Net) -> str:
    net.linear()
    net.add("Exp", ["y"], "e")
    net.add("ReduceSum", ["e", net.constant("axes", [1], np.int64)], "s", keepdims=1)
    return net.add("Div", ["e", "s"], "z")


def matmul_on_the_left(net: Net) -> str:
    net.add("Transpose", ["f"], "t", perm=[1, 0])
    net.add("MatMul", [net.constant("fw", net.weight), "t"], "m")
    net.add("Transpose", ["m"], "u", perm=[1, 0])
    return net.add("Add", ["u", net.constant("fb", net.bias)], "y")


@pytest.mark.parametrize(
    "ending",
    [
        gemm(bias=np.full((1, CLASSES), 0.5)),
        gemm(bias=np.array(0.5)),
        gemm(bias=np.array([0.5])),
        gemm(alpha=0.5, beta=0.25),
        matmul_on_the_left,
    ],
    ids=["row", "scalar", "one", "alpha and beta", "left"],
)
def test_linear_layers_in_all_forms(shapes: Path, tmp_path: Path, ending: Callable[[Net], str]):
    net = Net()
    file = net.save(tmp_path / "net.onnx", ending(net))
    job, _ = opened(shapes, file)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)
    quantized = Int8(calibration_images=16).apply(job.artifact, job.task)
    assert onnxruntime_kernels(quantized.files[0])["int8"]
    off = np.abs(load(quantized.files, "onnxruntime")(pixels(job))["logits"] - answers(job)).max()
    assert off < 0.1 * np.abs(answers(job)).max()


@pytest.mark.parametrize("bias", [(4, 1), (4, CLASSES), (1, CLASSES), ()])
@pytest.mark.parametrize("batch", [4, CLASSES])
def test_factors_of_linear_layers_are_applied_once(bias: tuple[int, ...], batch: int):
    net, rng = Net(), np.random.default_rng(0)
    rows = tuple(batch if side == 4 else side for side in bias)
    net.constant("f_weight", 1)  # a name that the new weight could have
    net.constant("fw", net.weight), net.constant("fb", rng.normal(size=rows))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["f", "fw", "fb"], ["y"], "f", transB=1, alpha=2.0, beta=0.5)],
        "g",
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        net.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    x = rng.normal(size=(batch, 8)).astype(np.float32)
    made = []
    for _ in range(2):
        made.append(onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"f": x})[0])
        clean_up(model)
    np.testing.assert_allclose(made[1], made[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (9, 3), (9, 4), (12, 7), (17, 8)])
def test_all_ages_are_quantized(shapes: Path, tmp_path: Path, opset: int, ir: int):
    net = Net()
    file = net.save(tmp_path / "net.onnx", net.linear(), opset=opset, ir=ir)
    job, _ = opened(shapes, file)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)
    assert len(onnxruntime_kernels(Int8(calibration_images=8).apply(job.artifact, job.task).files[0])["int8"]) == 2


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_precisions_are_computed_in_float32(shapes: Path, tmp_path: Path, kind: Any):
    plain, net = Net(), Net(kind)
    file = plain.save(tmp_path / "plain.onnx", plain.linear())
    job, notes = opened(shapes, net.save(tmp_path / "net.onnx", net.linear()))
    assert any("float32" in note for note in notes)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=0.02, atol=0.02)
    assert len(onnxruntime_kernels(Int8(calibration_images=8).apply(job.artifact, job.task).files[0])["int8"]) == 2


def softmax_then(*kinds: str) -> Callable[[Net], str]:
    def ending(net: Net) -> str:
        end = net.add("Softmax", [net.linear()], "p0", axis=-1)
        for i, kind in enumerate(kinds, 1):
            more = [net.constant("shape", [-1, CLASSES], np.int64)] if kind == "Reshape" else []
            end = net.add(kind, [end, *more], f"p{i}", **({"to": TensorProto.FLOAT} if kind == "Cast" else {}))
        return end

    return ending


@pytest.mark.parametrize("ending", [softmax_then(), softmax_then("Reshape", "Identity"), softmax_then("Cast"), hand_softmax])
def test_probabilities_become_logits_of_the_same_probabilities(shapes: Path, tmp_path: Path, ending: Callable[[Net], str]):
    net = Net()
    file = net.save(tmp_path / "net.onnx", ending(net))
    job, notes = opened(shapes, file)
    assert any("files return logits" in note for note in notes)
    found = np.exp(answers(job))
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), expected(job, file), rtol=1e-4, atol=1e-5)


def test_sigmoids_keep_their_order(shapes: Path, tmp_path: Path):
    net = Net()
    file = net.save(tmp_path / "net.onnx", net.add("Sigmoid", [net.linear()], "z"))
    job, notes = opened(shapes, file)
    assert any("each class by itself" in note for note in notes)
    np.testing.assert_allclose(1 / (1 + np.exp(-answers(job))), expected(job, file), rtol=1e-4, atol=1e-5)


def test_of_two_outputs_that_which_is_right_more_often_is_taken(shapes: Path, tmp_path: Path):
    net = Net()
    net.add("Neg", [net.linear()], "wrong_way_round")
    second = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", CLASSES))
    job, notes = opened(shapes, net.save(tmp_path / "net.onnx", "wrong_way_round", others=[second]))
    assert any("is taken, not" in note for note in notes)
    split = job.task.split("calibration")
    images, labels = split.images(job.artifact.input_spec, job.artifact.preprocessing), np.asarray(split.targets)
    logits = load(job.artifact.files, "onnxruntime")(images)["logits"]
    assert (logits.argmax(1) == labels).mean() >= ((-logits).argmax(1) == labels).mean()


def test_bodies_of_if_read_what_lies_around_them(shapes: Path, tmp_path: Path):
    net = Net()
    net.linear()
    net.add("ReduceMean", ["r"], "mean", keepdims=0)
    net.add("Greater", ["mean", net.constant("limit", 0.1)], "large")
    net.constant("half", 0.5)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("t", "e")]
    bodies = [
        helper.make_graph([helper.make_node(kind, ["y", *more], [out])], kind, [], [value])
        for kind, more, out, value in (("Mul", ["half"], "t", info[0]), ("Neg", [], "e", info[1]))
    ]
    net.add("If", ["large"], "z", then_branch=bodies[0], else_branch=bodies[1])
    job, _ = opened(shapes, net.save(tmp_path / "net.onnx", "z"))
    Int8(calibration_images=8).apply(job.artifact, job.task)


def test_bodies_inside_bodies_read_what_lies_around_all(shapes: Path, tmp_path: Path):
    net = Net()
    net.linear()
    net.constant("large", True, np.bool_), net.constant("half", 0.5)
    body = [helper.make_node("Mul", ["y", "half"], ["t0"])]
    for depth in range(2):  # only the innermost body reads "half"
        out = helper.make_tensor_value_info(f"t{depth}", TensorProto.FLOAT, None)
        other = [helper.make_node("Identity", ["y"], [f"t{depth}"], f"other{depth}")]
        bodies = {"then_branch": helper.make_graph(body, "then", [], [out]), "else_branch": helper.make_graph(other, "else", [], [out])}
        body = [helper.make_node("If", ["large"], [f"t{depth + 1}"], **bodies)]
    net.nodes += body
    file = net.save(tmp_path / "net.onnx", "t2")
    job, _ = opened(shapes, file)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)
    model = onnx.load(str(job.artifact.files[0]))
    assert any(name.endswith("half") and {r.op_type for r in nodes} == {"If"} for name, nodes in readers(model.graph).items())
    _strip(model)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_freed_where_constants_and_windows_are_reshaped(shapes: Path, tmp_path: Path, batch: int):
    def build(batch: int | str) -> Net:
        net = Net(batch=batch)
        fixed = batch if isinstance(batch, int) else None
        net.add("Reshape", [net.constant("s", np.linspace(0.5, 1, 3)), net.constant("s4", [1, 3, 1, 1], np.int64)], "scale")
        net.add("Mul", ["x", "scale"], "scaled")
        half = SIDE // 2
        cut = [fixed or 0, 3, 2, half, SIDE]
        net.add("Reshape", ["scaled", net.constant("cut", cut, np.int64)], "five")
        net.add("Transpose", ["five"], "turned", perm=[0, 2, 1, 3, 4])
        many = [2 * fixed if fixed else -1, 3, half, SIDE]
        net.add("Reshape", ["turned", net.constant("many", many, np.int64)], "windows")
        net.nodes[0].input[0] = "windows"
        net.nodes = [*net.nodes[4:], *net.nodes[:4]]
        net.linear()
        net.add("Reshape", ["y", net.constant("back", [fixed or -1, 2, CLASSES], np.int64)], "pairs")
        net.add("ReduceMean", ["pairs"], "z", axes=[1], keepdims=0)
        return net

    file = build("N").save(tmp_path / "free.onnx", "z")
    job, notes = opened(shapes, build(batch).save(tmp_path / "fixed.onnx", "z", shape=(batch, CLASSES)))
    assert any("and now takes any" in note for note in notes)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)


def test_logits_with_two_more_axes_are_flattened(shapes: Path, tmp_path: Path):
    net = Net()
    net.add("Unsqueeze", [net.linear(), net.constant("axes", [2, 3], np.int64)], "z")
    job, _ = opened(shapes, net.save(tmp_path / "net.onnx", "z", shape=("N", CLASSES, 1, 1)))
    assert answers(job).shape[1:] == (CLASSES,)


@pytest.mark.parametrize("dynamic_inputs", [{"side": "S"}, {"side": "S", "channels": "C"}])
def test_open_sides_are_the_images_own(shapes: Path, tmp_path: Path, dynamic_inputs: Any):
    net = Net(**dynamic_inputs)
    job, _ = opened(shapes, net.save(tmp_path / "net.onnx", net.linear()))
    assert (job.artifact.input_spec.channels, job.artifact.input_spec.height, job.artifact.input_spec.width) == (3, SIDE, SIDE)


def test_labels_and_nan_are_refused_as_what_they_are(shapes: Path, tmp_path: Path):
    net = Net()
    net.add("ArgMax", [net.linear()], "label", axis=1, keepdims=0)
    with pytest.raises(ModelError, match="labels, not scores"):
        opened(shapes, net.save(tmp_path / "labels.onnx", "label", shape=("N",), kind=TensorProto.INT64))
    net = Net()
    net.bias[0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        opened(shapes, net.save(tmp_path / "nan.onnx", net.linear()))


def test_a_file_in_which_nothing_runs_in_integers_is_not_int8(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net = Net()
    job, _ = opened(shapes, net.save(tmp_path / "net.onnx", net.linear()))
    monkeypatch.setattr("planish.compression.quantization.int8.onnxruntime_kernels", lambda file: {"int8": [], "float": ["c", "y"]})
    with pytest.raises(TechniqueError, match="none of 2"):
        Int8(calibration_images=8).apply(job.artifact, job.task)


def test_a_weight_that_two_convolutions_share_is_quantized(shapes: Path, tmp_path: Path):
    net = Net()
    net.constant("shared", np.random.default_rng(1).normal(0, 0.2, (8, 8, 3, 3)))
    for kind, (taken, made) in (("Conv", ("r", "s1")), ("Relu", ("s1", "s2")), ("Conv", ("s2", "s3"))):
        more = [["shared", "b"], {"pads": [1] * 4}] if kind == "Conv" else [[], {}]
        net.add(kind, [taken, *more[0]], made, **more[1])
    net.nodes = [*net.nodes[:2], *net.nodes[-3:], *net.nodes[2:-3]]
    net.nodes[5].input[0] = "s3"
    job, _ = opened(shapes, net.save(tmp_path / "net.onnx", net.linear()))
    quantized = Int8(calibration_images=8).apply(job.artifact, job.task)
    assert len(onnxruntime_kernels(quantized.files[0])["int8"]) == 4
    off = np.abs(load(quantized.files, "onnxruntime")(pixels(job))["logits"] - answers(job)).max()
    assert off < 0.1 * np.abs(answers(job)).max()


@pytest.mark.parametrize(("opset", "outputs", "more"), [(9, 5, {}), (15, 3, {"training_mode": 1})])
def test_batch_norm_in_training_mode_is_refused(shapes: Path, tmp_path: Path, opset: int, outputs: int, more: dict[str, int]):
    net = Net()
    values = [net.constant(f"n{i}", np.full(8, i % 3 > 0)) for i in range(4)]
    net.nodes.insert(1, helper.make_node("BatchNormalization", ["c", *values], [f"o{i}" for i in range(outputs)], "norm", **more))
    net.nodes[2].input[0] = "o0"
    with pytest.raises(ModelError, match=r"training mode, for example norm.*eval\(\)"):
        opened(shapes, net.save(tmp_path / "net.onnx", net.linear(), opset=opset))


def test_dropout_in_training_mode_is_left_out(shapes: Path, tmp_path: Path):
    net = Net()
    net.add("Dropout", ["f", net.constant("ratio", 0.5), net.constant("training", True, np.bool_)], "d")
    net.linear()
    net.nodes[-1].input[0] = "d"
    job, notes = opened(shapes, net.save(tmp_path / "net.onnx", "y"))
    assert any("dropout" in note for note in notes)
    assert not any(len(node.input) > 1 for node in onnx.load(str(job.artifact.files[0])).graph.node if node.op_type == "Dropout")


def test_what_onnx_runtime_fused_is_taken_apart(shapes: Path, tmp_path: Path):
    net = Net()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    file = net.save(tmp_path / "net.onnx", net.linear())
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert "FusedConv" in {node.op_type for node in onnx.load(str(tmp_path / "fast.onnx")).graph.node}
    job, before = opened(shapes, tmp_path / "fast.onnx")[0], opened(shapes, file)[0]
    images = np.ascontiguousarray(job.task.split("validation").images(job.artifact.input_spec, job.artifact.preprocessing))
    expected, found = (load(each.artifact.files, "onnxruntime")(images)["logits"] for each in (before, job))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert {node.domain for node in onnx.load(str(job.artifact.files[0])).graph.node} == {""}


def test_blocks_of_channels_are_named(shapes: Path, tmp_path: Path):
    """What ONNX Runtime writes at its highest level: weights in the order of this processor's kernels."""
    net = Net()
    net.nodes.insert(0, helper.make_node("ReorderInput", ["x"], ["blocks"], "blocks", domain="com.microsoft.nchwc"))
    file = net.save(tmp_path / "net.onnx", net.linear())
    with pytest.raises(ModelError, match=r"ReorderInput.*before it was optimized"):
        opened(shapes, file)


@pytest.mark.parametrize(("change", "words"), [({"ir_version": 99}, "IR version: 99"), ({"opset": 99}, "opset")])
def test_versions_that_are_too_new_are_named(shapes: Path, tmp_path: Path, change: dict[str, int], words: str):
    net = Net()
    file = net.save(tmp_path / "net.onnx", net.linear())
    model = onnx.load(str(file))
    model.ir_version = change.get("ir_version", 8)
    model.opset_import[0].version = change.get("opset", 13)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=words):
        opened(shapes, file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x08\x08\x12\x07py", "whole ONNX file"),
    ],
    ids=["empty", "lfs", "html", "cut"],
)
def test_files_that_are_not_onnx_are_named(shapes: Path, tmp_path: Path, content: bytes, words: str):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        opened(shapes, tmp_path / "net.onnx")


def test_one_number_for_two_classes_is_named(tmp_path: Path):
    data = write_shapes(tmp_path / "two", per_class=12, size=SIDE, channels=3)
    next(folder for folder in sorted(data.iterdir()) if folder.is_dir()).rename(tmp_path / "away")
    net = Net()
    net.weight, net.bias = net.weight[:1], net.bias[:1]
    with pytest.raises(ModelError, match="both logits"):
        opened(data, net.save(tmp_path / "net.onnx", net.linear(), shape=("N", 1)))


def test_functions_in_a_file_are_quantized_and_converted(shapes: Path, tmp_path: Path):
    net = Net()
    file = net.save(tmp_path / "plain.onnx", net.linear(), opset=18)
    model = onnx.load(str(file))
    body = [helper.make_node("Conv", ["x", "w", "b"], ["t"]), helper.make_node("Relu", ["t"], ["r"])]
    model.functions.append(helper.make_function("mine", "Block", ["x", "w", "b"], ["r"], body, [helper.make_opsetid("", 18)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    del model.graph.node[:2]
    model.graph.node.insert(0, helper.make_node("Block", ["x", "w", "b"], ["r"], domain="mine"))
    onnx.save(model, str(tmp_path / "functions.onnx"))
    job, _ = opened(shapes, tmp_path / "functions.onnx")
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)
    ToOpenVino().apply(job.artifact, job.task)
    assert len(onnxruntime_kernels(Int8(calibration_images=8).apply(job.artifact, job.task).files[0])["int8"]) == 2


def test_two_nodes_of_the_same_name_and_a_batch_of_0(shapes: Path, tmp_path: Path):
    net = Net()
    file = net.save(tmp_path / "plain.onnx", net.linear())
    model = onnx.load(str(file))
    for node in model.graph.node:
        node.name = "same"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    onnx.save(model, str(tmp_path / "net.onnx"))
    job, _ = opened(shapes, tmp_path / "net.onnx")
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)


def test_a_double_input_of_a_float_network(shapes: Path, tmp_path: Path):
    net = Net()
    file = net.save(tmp_path / "plain.onnx", net.linear())
    model = onnx.load(str(file))
    model.graph.node.insert(0, helper.make_node("Cast", ["wide"], ["x"], to=TensorProto.FLOAT))
    model.graph.input[0].name, model.graph.input[0].type.tensor_type.elem_type = "wide", TensorProto.DOUBLE
    onnx.save(model, str(tmp_path / "net.onnx"))
    job, notes = opened(shapes, tmp_path / "net.onnx")
    assert any("float64 is computed in float32" in note for note in notes)
    np.testing.assert_allclose(answers(job), expected(job, file), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "attributes", "elem", "words"),
    [
        ("Cast", {"to": TensorProto.STRING}, TensorProto.STRING, r"\(N, 3\).*one float per class"),
        ("Cast", {"to": TensorProto.INT64}, TensorProto.INT64, r"int64 \(N, 3\).*one float per class"),
        ("SplitToSequence", {"axis": 1}, None, "returns no tensor"),
    ],
)
def test_outputs_that_are_no_floats_are_refused(
    shapes: Path, tmp_path: Path, kind: str, attributes: dict[str, int], elem: int | None, words: str
):
    net = Net()
    parts = [net.constant("parts", [1, CLASSES - 1], np.int64)] if elem is None else []
    net.add(kind, [net.linear(), *parts], "z", **attributes)
    file = net.save(tmp_path / "net.onnx", "z", kind=elem)
    if elem is None:
        model = onnx.load(str(file))
        model.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("z", TensorProto.FLOAT, None))
        onnx.save(model, str(file))
    with pytest.raises(ModelError, match=words):
        opened(shapes, file)


def test_a_constant_for_a_fixed_batch_is_named_as_such(shapes: Path, tmp_path: Path):
    net = Net(batch=1)
    places = [net.constant(name, [value], np.int64) for name, value in (("starts", 0), ("ends", 3), ("axes", 1))]
    net.nodes.insert(0, helper.make_node("Concat", ["x", net.constant("more", np.ones((1, 1, SIDE, SIDE)))], ["wide"], axis=1))
    net.nodes.insert(1, helper.make_node("Slice", ["wide", *places], ["taken"]))
    net.nodes[2].input[0] = "taken"
    with pytest.raises(ModelError, match=r"does not take \d+ images at once.*made for 1.*dynamic_shapes"):
        opened(shapes, net.save(tmp_path / "net.onnx", net.linear(), shape=(1, CLASSES)))


def test_a_resize_to_a_size_with_the_batch_in_it(shapes: Path, tmp_path: Path):
    net = Net(batch=1)
    net.nodes[1:] = [helper.make_node("Resize", ["c", "", "", net.constant("size", [1, 8, 28, 28], np.int64)], ["u"], mode="nearest")]
    for kind, taken, made in (("Relu", "u", "r"), ("GlobalAveragePool", "r", "p"), ("Flatten", "p", "f")):
        net.add(kind, [taken], made)
    file = net.save(tmp_path / "net.onnx", net.linear(), shape=(1, CLASSES))
    job, _ = opened(shapes, file)
    images = np.ascontiguousarray(job.task.split("validation").images(job.artifact.input_spec, job.artifact.preprocessing))
    given = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in given])
    np.testing.assert_allclose(load(job.artifact.files, "onnxruntime")(images)["logits"], expected, atol=1e-4 * np.abs(expected).max())
