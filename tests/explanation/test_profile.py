"""What is read from the runtimes, against numbers from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import artifact, convolutions, exported, foreign, healthy, wrongly
from onnxruntime.quantization import QuantType
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import planish
from planish.artifact import Artifact, InputSpec
from planish.devices.kernels import onnxruntime_kernels
from planish.evaluation.size import macs
from planish.explanation import explain as explaining
from planish.explanation.findings.achievable_speed import AchievableSpeed, measure_peak_speed
from planish.explanation.model_file import ModelFile
from planish.explanation.overflow import overflow_share
from planish.explanation.profiles.macs import einsum_macs, product_macs
from planish.explanation.profiles.onnxruntime import profile_onnxruntime
from planish.explanation.profiles.openvino import _zeros, profile_openvino
from planish.explanation.profiles.profile import LayerProfile
from planish.explanation.profiles.source_graph import SourceGraph
from planish.explanation.signal_to_noise import measure_errors

PROFILERS = {"onnxruntime": profile_onnxruntime, "openvino": profile_openvino}


@pytest.fixture(scope="module")
def mobilenet() -> Artifact:
    return exported("torchvision:mobilenet_v2", 64)


@pytest.fixture(scope="module")
def resnet() -> Artifact:
    return exported("resnet8", 32)


@pytest.mark.parametrize("runtime", PROFILERS)
def test_multiplications_are_those_that_torch_counts(mobilenet: Artifact, runtime: str) -> None:
    counter, network = FlopCounterMode(display=False), artifact("torchvision:mobilenet_v2", 64).module
    with counter, torch.no_grad():
        network(torch.zeros(3, 3, 64, 64))
    for file in (mobilenet.files[0], healthy(mobilenet)):
        profile = PROFILERS[runtime](ModelFile(file, runtime, batch=3))
        assert 2 * sum(x.macs for x in profile.layers) == counter.get_total_flops()
        assert sum(x.kind == "depthwise" for x in profile.layers) == 17
        assert sum(x.kind == "linear" for x in profile.layers) == 1
        assert sum(profile.ms(x) for x in profile.layers) <= profile.latency_ms * 1.0001


def test_layers_that_run_in_integers_are_those_of_the_optimised_graph(resnet: Artifact, tmp_path: Path) -> None:
    for file in (resnet.files[0], healthy(resnet), wrongly(resnet, tmp_path, activation_type=QuantType.QInt8)):
        kernels = onnxruntime_kernels(file)
        layers = profile_onnxruntime(ModelFile(file, "onnxruntime")).matrix_layers
        assert sum(x.precision == "int8" for x in layers) == len(kernels["int8"])
        assert sum(x.precision == "fp32" for x in layers) == len(kernels["float"])


def test_conversions_around_a_layer_are_counted(resnet: Artifact, tmp_path: Path) -> None:
    options = {"OpTypesToExcludeOutputQuantization": ["Conv"]}
    file = wrongly(resnet, tmp_path, op_types_to_quantize=["Conv"], extra_options=options)
    found = planish.explain(file)
    floats = [x for x in found.layers if x.kind == "convolution" and x.precision == "fp32"]
    assert floats
    assert any("DequantizeLinear" in x.conversions for x in floats)
    assert all(x.conversions_ms > 0 for x in floats if x.conversions)


def test_reach_is_that_of_numpys_matrix_product_or_so() -> None:
    reach = measure_peak_speed(1)
    assert reach.int8_gops > reach.fp32_gops / 2
    assert 1 < reach.fp32_gops < 10_000


@pytest.mark.parametrize("runtime", PROFILERS)
def test_errors_are_those_of_the_outputs(resnet: Artifact, runtime: str) -> None:
    file = healthy(resnet, runtime, correct_bias=False)  # corrected biases fit rounded activations, not those of the reference
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    batches = [{"images": pixels[i : i + 1]} for i in range(8)]
    against_float = measure_errors(ModelFile(file, runtime), batches, resnet.files[0])
    assert against_float is not None
    expected = onnxruntime.InferenceSession(str(resnet.files[0])).run(None, {"images": pixels})[0]
    run = ModelFile(file, runtime).load()
    found = np.concatenate([run(inputs)["logits"] for inputs in batches])
    snr = 10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum())
    assert against_float.final_db == pytest.approx(snr, abs=1.5), "outputs beside the last one cost a fusion here and there"
    alone = measure_errors(ModelFile(file, runtime), batches)
    assert alone is not None
    assert alone.final_db > against_float.final_db - 1, "the rounding of weights is missing"
    assert alone.images == 8
    for errors in (alone, against_float):
        assert len(errors.layers_db) >= 8
        assert all(15 < db < 80 for db in errors.layers_db.values()), errors.layers_db


def test_a_layer_quantized_too_coarsely_stands_out(resnet: Artifact, tmp_path: Path) -> None:
    model = onnx.load(str(healthy(resnet)))
    constants = {t.name: t for t in model.graph.initializer}
    quantizers = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    made_by = {out: n for n in model.graph.node for out in n.output}
    spoilt = next(q for q in quantizers[4:] if made_by[q.input[0]].op_type == "Conv" or made_by[q.input[0]].op_type == "Relu")
    layer = made_by[spoilt.input[0]]
    layer = layer if layer.op_type == "Conv" else made_by[layer.input[0]]
    scale = onnx.numpy_helper.to_array(constants[spoilt.input[1]])
    constants[spoilt.input[1]].CopyFrom(onnx.numpy_helper.from_array(scale * 40, spoilt.input[1]))
    onnx.save(model, str(tmp_path / "spoilt.onnx"))
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    errors = measure_errors(ModelFile(tmp_path / "spoilt.onnx", "onnxruntime"), [{"images": pixels[i : i + 1]} for i in range(4)])
    assert errors is not None
    order = list(errors.layers_db)
    earlier = [errors.layers_db[name] for name in order[: order.index(layer.name)]]
    assert errors.layers_db[layer.name] < min(earlier) - 10


def test_a_float_file_has_no_error_of_its_own(resnet: Artifact) -> None:
    pixels = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    assert measure_errors(ModelFile(resnet.files[0], "onnxruntime"), [{"images": pixels}]) is None


def test_weights_that_can_overflow_are_counted(resnet: Artifact, tmp_path: Path) -> None:
    assert overflow_share(resnet.files[0]) == 0
    assert overflow_share(wrongly(resnet, tmp_path, reduce_range=False)) > 0.5
    assert overflow_share(wrongly(resnet, tmp_path, reduce_range=True)) == 0


def test_weights_of_a_matrix_product_have_their_outputs_along_the_second_axis(tmp_path: Path) -> None:
    weights = np.array([[100, 1, 5], [90, 2, 5], [0, 2, 3], [0, 1, 5]], np.int8)  # four inputs, three outputs
    stored = {"w": weights, "scales": np.ones(3, np.float32), "zeros": np.array([0, 2, 5], np.int8)}
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["dequantized"], axis=1),
        onnx.helper.make_node("MatMul", ["x", "dequantized"], ["y"], name="layer"),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, n]) for name, n in (("x", 4), ("y", 3))]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "product", values[:1], values[1:], constants)
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "product.onnx"))
    source = SourceGraph(tmp_path / "product.onnx")
    found = source.weights(source.nodes["layer"])
    assert found is not None
    assert found.zeros == pytest.approx(7 / 12), "each column by its own zero point"
    assert overflow_share(tmp_path / "product.onnx") == pytest.approx(1 / 3), "only the weights of the first output add up to more than 128"
    net = ModelFile(tmp_path / "product.onnx", "openvino").openvino_model()
    assert list(_zeros(net).values()) == pytest.approx([7 / 12]), "as in ONNX"


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [
        ("MatMulInteger", ["x", "w", "", "zeros"], (4, 3)),
        ("QLinearMatMul", ["x", "s", "z", "w", "s", "zeros", "s", "z"], (4, 3)),
        ("ConvInteger", ["x", "w", "", "zeros"], (3, 4, 1, 1)),
        ("QLinearConv", ["x", "s", "z", "w", "s", "zeros", "s", "z"], (3, 4, 1, 1)),
    ],
)
def test_zero_weights_of_integer_operations_are_those_at_the_zero_point(
    op: str, inputs: list[str], shape: tuple[int, ...], tmp_path: Path
) -> None:
    weights = np.full(shape, 9, np.uint8)
    np.moveaxis(weights, 1 if "MatMul" in op else 0, 0)[1:] = 128  # all weights of two of three outputs are 0
    stored = {"w": weights, "zeros": np.full(3, 128, np.uint8), "s": np.float32(1), "z": np.uint8(0)}
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, inputs, ["y"], name="layer")], "net", values[:1], values[1:], constants)
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "net.onnx"))
    source = SourceGraph(tmp_path / "net.onnx")
    found = source.weights(source.nodes["layer"])
    assert found is not None
    assert found.zeros == pytest.approx(2 / 3)


def test_a_file_whose_tensors_have_no_names(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13

    images = opset13.parameter([1, 3, 16, 16], openvino.Type.f32)
    layer = opset13.convolution(images, opset13.constant(np.ones((4, 3, 3, 3), np.float32)), [1, 1], [0, 0], [0, 0], [1, 1])
    file = tmp_path / "nameless.xml"
    openvino.save_model(openvino.Model([layer], [images]), str(file))
    file.write_text(re.sub(r' names="[^"]*"', "", file.read_text()))
    assert not openvino.Core().read_model(str(file)).inputs[0].get_names()
    profile = profile_openvino(ModelFile(file, "openvino"))
    assert any(found.macs == 14 * 14 * 4 * 3 * 9 for found in profile.layers)


@pytest.mark.parametrize("runtime", PROFILERS)
def test_files_of_others(runtime: str, tmp_path: Path) -> None:
    file = foreign(convolutions(16, 16), 40, tmp_path / "theirs.onnx")
    found = planish.explain(file, runtime=runtime)
    assert [x.kind for x in found.layers if x.macs] == ["convolution", "convolution", "linear"]
    np.save(tmp_path / "inputs.npy", np.zeros((3, 3, 40, 40), dtype=np.float32))
    assert planish.explain(file, runtime=runtime, data=tmp_path / "inputs.npy").errors is None


class Everything(nn.Module):
    """Every kind of multiplication: grey input, groups, dilation, strides, transposed, products of activations, einsum, pooling up."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Conv2d(1, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=4)
        self.depthwise = nn.Conv2d(24, 24, 5, padding="same", groups=24)
        self.strided = nn.Conv2d(24, 20, 1, stride=2)
        self.up = nn.ConvTranspose2d(20, 12, 4, stride=2, padding=1)
        self.up_in_groups = nn.ConvTranspose2d(12, 6, 3, stride=2, output_padding=1, groups=3)
        self.to_one = nn.ConvTranspose2d(6, 1, 2, stride=2)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.rows = nn.Linear(20, 7)
        self.head = nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.strided(self.depthwise(self.grouped(self.grey(x)))))
        up = self.to_one(self.up_in_groups(self.up(x)))
        flat = x.flatten(2)  # (N, 20, 36)
        attention = flat @ flat.transpose(1, 2)
        mixed = torch.einsum("ncp,ndp->ncd", attention @ flat, flat)
        return self.head(mixed.mean(2)) + self.rows(flat.transpose(1, 2)).mean((1, 2), keepdim=True)[:, 0] + up.mean((1, 2, 3))[:, None]


def by_brute_force(net: nn.Module, images: torch.Tensor) -> int:
    """Multiplications of the layers with weights: each output is touched by as many weights as a network of ones says."""
    total = 0

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        nonlocal total
        weight, plain = torch.ones_like(layer.weight), torch.ones_like(given[0])
        if isinstance(layer, nn.ConvTranspose2d):  # what is cut off at the border is multiplied all the same
            total += int(functional.conv_transpose2d(plain, weight, stride=layer.stride, groups=layer.groups).sum())
        elif isinstance(layer, nn.Conv2d):  # zeros around the image are multiplied too
            inside = torch.ones(1, layer.in_channels, 9, 9)
            each = functional.conv2d(inside, weight, dilation=layer.dilation, groups=layer.groups)
            total += int(each[0, 0, 0, 0]) * made.numel()
        else:
            total += int(functional.linear(plain, weight).sum())

    handles = [part.register_forward_hook(count) for part in net.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("runtime", PROFILERS)
def test_every_kind_of_multiplication_is_counted_once(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images = Everything().eval(), torch.zeros(3, 1, 24, 24)
    size = InputSpec(1, 24, 24)
    layers = by_brute_force(net, images)
    products = 3 * 3 * 20 * 20 * 36  # attention, what it weighs, and einsum
    assert 3 * macs(net, size).value == layers + products
    torch.onnx.export(net, (images,), str(tmp_path / "all.onnx"), dynamo=True, verbose=False)
    profile = PROFILERS[runtime](ModelFile(tmp_path / "all.onnx", runtime, batch=3))
    assert sum(x.macs for x in profile.layers) == layers + products
    assert [x.kind for x in profile.layers if x.macs][:3] == ["convolution", "convolution", "depthwise"], "one channel is not depthwise"


def test_shapes_of_products() -> None:
    assert product_macs((2, 8, 5), (2, 8, 7)) == 2 * 8 * 5 * 7
    assert product_macs((2, 5, 8), (2, 8, 7)) == 2 * 8 * 5 * 7, "transposed"
    assert product_macs((5,), (7,)) == 35
    assert einsum_macs("bci, bdi -> bcd", [(2, 3, 5), (2, 4, 5)]) == 2 * 3 * 4 * 5
    assert einsum_macs("ij->ji", [(3, 4)]) == 0


def test_reach_is_measured_around_the_profile_and_doubted_above_100_percent(resnet: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [AchievableSpeed(50.0, 40.0, 1), AchievableSpeed(20.0, 90.0, 1)]
    monkeypatch.setattr(explaining, "measure_peak_speed", lambda threads: measured.pop(0))
    found = planish.explain(resnet.files[0])
    assert (found.reach.fp32_gops, found.reach.int8_gops) == (50.0, 90.0)
    monkeypatch.setattr(explaining, "measure_peak_speed", lambda threads: AchievableSpeed(1e-3, 1e-3, 1))
    (note,) = [note for note in planish.explain(resnet.files[0]).notes if "reach is unreliable" in note]
    assert "more than 100 %" in note
    monkeypatch.setattr(explaining, "measure_peak_speed", lambda threads: AchievableSpeed(1e6, 1e6, 1))
    assert not [note for note in planish.explain(resnet.files[0]).notes if "unreliable" in note]


def test_reach_says_nothing_of_what_it_was_not_measured_in() -> None:
    assert AchievableSpeed(10.0, 40.0, 1).gops("bf16") is None
    layer = LayerProfile("a", "Convolution", "convolution", 1.0, "bf16", macs=10**9)
    assert explaining._peak_share(layer, AchievableSpeed(10.0, 40.0, 1)) is None
    winograd = LayerProfile("a", "Convolution", "convolution", 1.0, "fp32", kernel="jit_avx512_winograd_FP32", macs=10**9)
    assert explaining._peak_share(winograd, AchievableSpeed(10.0, 40.0, 1)) is None


@pytest.mark.parametrize("runtime", PROFILERS)
def test_a_file_with_open_sides_says_which_size_was_taken(runtime: str, tmp_path: Path) -> None:
    net, sides = nn.Conv2d(3, 4, 3), torch.export.Dim.DYNAMIC
    torch.onnx.export(
        net, (torch.zeros(2, 3, 32, 32),), str(tmp_path / "open.onnx"), dynamo=True, verbose=False, input_names=["pixels"],
        dynamic_shapes=({0: sides, 2: sides, 3: sides},),
    )  # fmt: skip
    (note,) = [note for note in planish.explain(tmp_path / "open.onnx", runtime=runtime).notes if "open" in note]
    assert "'pixels'" in note
    assert "1 x 3 x 224 x 224" in note
    np.save(tmp_path / "inputs.npy", np.zeros((2, 3, 40, 56), np.float32))
    found = planish.explain(tmp_path / "open.onnx", runtime=runtime, data=tmp_path / "inputs.npy")
    assert any("1 x 3 x 40 x 56" in note for note in found.notes)
    assert next(x for x in found.layers if x.macs).macs == 4 * 3 * 9 * 38 * 54
    fixed = foreign(convolutions(16, 16), 40, tmp_path / "fixed.onnx")
    assert not any("open" in note for note in planish.explain(fixed, runtime=runtime).notes)
