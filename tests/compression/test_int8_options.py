"""What Int8 can do beyond rounding: equalise, correct biases, leave layers float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from export_fakes import PREPROCESSING, SPEC, FakeTask, trained
from onnx import numpy_helper
from torch import nn

from planish.artifact import Artifact, Lineage, Source
from planish.compression import HalfPrecision, Int8, WeightSharing
from planish.compression.graph.onnx_graph import session_for
from planish.compression.quantization import mixed_precision
from planish.compression.quantization.bias_correction import correct_biases
from planish.compression.quantization.equalization import equalise
from planish.compression.quantization.weight_ranges import stretch
from planish.data.normalisation import Normalise
from planish.devices import machine
from planish.devices.kernels import onnxruntime_kernels
from planish.errors import TechniqueError
from planish.export import ToOnnx, ToOpenVino
from planish.export.runtimes.registry import load
from planish.models.batch_norm import reestimate_batch_norm
from planish.progress import Stage


@pytest.fixture(scope="module")
def task() -> FakeTask:
    return FakeTask()


class Lopsided(nn.Module):
    """Convolutions with ReLU between them: a plain, a grouped and a depthwise one; scales of channels differ a thousandfold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.grouped = nn.Conv2d(8, 8, 3, 1, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.last = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)
        factors = 10 ** torch.linspace(-1.5, 1.5, 8)
        with torch.no_grad():
            self.first.weight *= factors.view(-1, 1, 1, 1)
            self.depthwise.weight *= factors.flip(0).view(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = self.depthwise(self.grouped(x).relu())
        return self.head(self.last(x).relu().mean((2, 3)))


def exported(task: FakeTask, network: nn.Module) -> Artifact:
    source = Lineage(Source("module", 3, 3))
    return ToOnnx().apply(Artifact("torch", SPEC, PREPROCESSING, task.class_names, source, module=network.eval()), task)


def images_of(task: FakeTask) -> Any:
    return task.split("validation").images(SPEC, PREPROCESSING)


def logits(artifact: Artifact, task: FakeTask) -> Any:
    return load(artifact.files, "onnxruntime")(images_of(task))["logits"]


def test_equalised_networks_compute_the_same_with_even_channels(task: FakeTask, tmp_path: Path) -> None:
    torch.manual_seed(0)
    artifact = exported(task, Lopsided())
    model = onnx.load(str(artifact.files[0]))
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4}
    assert equalise(model.graph) == 3
    onnx.save(model, str(tmp_path / "equal.onnx"))
    expected = logits(artifact, task)
    found = load((tmp_path / "equal.onnx",), "onnxruntime")(images_of(task))["logits"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    after = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4}

    def spread(weights: dict[str, Any]) -> float:
        largest = [np.abs(w).max(axis=(1, 2, 3)) for name, w in weights.items() if not name.startswith("network.last")]
        return float(np.mean([np.log10(each.max() / each.min()) for each in largest]))

    assert spread(after) < 0.5 * spread(before)


def test_equalising_rescues_a_lopsided_network(task: FakeTask) -> None:
    torch.manual_seed(0)
    artifact = exported(task, Lopsided())
    expected = logits(artifact, task)
    plain, equal = (
        np.abs(logits(Int8(per_channel=False, equalise=e).apply(artifact, task), task) - expected).mean() for e in (False, True)
    )
    assert equal < 0.5 * plain


def test_corrected_biases_take_the_mean_error_away(task: FakeTask) -> None:
    artifact = exported(task, trained(task).module)
    expected = logits(artifact, task)
    plain, corrected = (Int8(correct_bias=c, per_channel=False).apply(artifact, task) for c in (False, True))
    error, left = (np.abs((logits(a, task) - expected).mean(0)).max() for a in (plain, corrected))
    assert left < error
    assert "biases corrected" in corrected.lineage.steps[-1].notes
    assert onnxruntime_kernels(corrected.files[0])["float"] == []


def test_after_correction_every_layer_has_its_mean_up_to_a_rounding_step(task: FakeTask) -> None:
    network = torchvision.models.mobilenet_v2(num_classes=len(task.class_names)).eval()
    pixels = torch.from_numpy(np.ascontiguousarray(task.split("calibration").images(SPEC, PREPROCESSING)[:64]))
    reestimate_batch_norm(network, [Normalise.of(PREPROCESSING)(pixels)])
    artifact = exported(task, network)
    images = task.split("calibration").images(SPEC, PREPROCESSING)[:64]
    before = onnx.load(str(artifact.files[0]))
    outputs = {node.name: node.output[0] for node in before.graph.node if node.op_type in ("Conv", "Gemm")}
    expected = dict(zip(outputs, session_for(before, list(outputs.values())).run(None, {"images": images}), strict=True))
    excess: dict[bool, list[float]] = {}
    for corrected in (False, True):
        after = onnx.load(str(Int8(per_channel=False, correct_bias=corrected).apply(artifact, task).files[0]))
        constants = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
        made_by = {name: node for node in after.graph.node for name in node.output}
        layers = [node for node in after.graph.node if node.name in outputs]
        found = session_for(after, [node.output[0] for node in layers]).run(None, {"images": images})
        for node, values in zip(layers, found, strict=True):
            error = (values - expected[node.name]).mean(tuple(range(2, values.ndim))).mean(0)
            step = constants[made_by[node.input[2]].input[1]] if corrected else 0.0
            excess.setdefault(corrected, []).append(float((np.abs(error) - 0.5 * step).max() / np.abs(expected[node.name]).mean()))
    assert len(excess[True]) > 50
    assert max(excess[True]) < 1e-2  # other kernels round a few activations the other way
    assert np.median(excess[False]) > 10 * np.median(np.maximum(excess[True], 1e-4))


def test_layers_without_a_bias_are_corrected_too(task: FakeTask) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, len(task.class_names), bias=False),
    )  # fmt: skip
    with torch.no_grad():  # a scale for the tensor that is too coarse for most channels
        network[0].weight[0] *= 30
        network[2].weight[0] *= 30
    artifact = exported(task, network)
    expected = logits(artifact, task)
    plain, corrected = (Int8(correct_bias=c, per_channel=False).apply(artifact, task) for c in (False, True))
    error, left = (np.abs((logits(a, task) - expected).mean(0)).max() for a in (plain, corrected))
    assert left < 0.5 * error
    assert onnxruntime_kernels(corrected.files[0])["float"] == []


def test_a_wrong_bias_is_put_right(task: FakeTask, tmp_path: Path) -> None:
    artifact = exported(task, trained(task).module)
    quantized = Int8().apply(artifact, task)
    model = onnx.load(str(quantized.files[0]))
    biases = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32 and len(t.dims) == 1 and "zero" not in t.name]
    spoilt = biases[2]
    spoilt.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(spoilt) + 3000, spoilt.name))
    onnx.save(model, str(tmp_path / "spoilt.onnx"))
    expected = logits(artifact, task)
    images = task.split("calibration").images(SPEC, PREPROCESSING)

    def error() -> float:
        return float(np.abs(load((tmp_path / "spoilt.onnx",), "onnxruntime")(images_of(task))["logits"] - expected).mean())

    before = error()
    with Stage("correcting", 0) as stage:
        correct_biases(artifact.files[0], tmp_path / "spoilt.onnx", [images], stage)
    assert error() < 0.3 * before


def test_the_layer_most_sensitive_to_rounding_stays_float(task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of the second layer dwarfs the others, so that a scale for the whole layer rounds those to nothing."""
    monkeypatch.setattr(
        mixed_precision, "layer_latencies", lambda variants, runtime: [2.0 if v.precision == "fp32" else 1.0 for v in variants]
    )
    torch.manual_seed(0)
    network = Lopsided()
    with torch.no_grad():
        network.first.weight /= 10 ** torch.linspace(-1.5, 1.5, 8).view(-1, 1, 1, 1)
        network.depthwise.weight /= 10 ** torch.linspace(1.5, -1.5, 8).view(-1, 1, 1, 1)
        network.grouped.weight[0] *= 300
        network.depthwise.weight[0] /= 300
    artifact = exported(task, network)
    mixed = Int8(per_channel=False, max_slowdown=0.2, correct_bias=False).apply(artifact, task)
    (kept,) = onnxruntime_kernels(mixed.files[0])["float"]
    assert f"float layers: {kept}" in mixed.lineage.steps[-1].notes
    expected = logits(artifact, task)
    error, plain = (
        np.abs(logits(a, task) - expected).mean() for a in (mixed, Int8(per_channel=False, correct_bias=False).apply(artifact, task))
    )
    assert error < 0.5 * plain


def test_a_knapsack_is_filled_as_brute_force_fills_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sensitivity, cost = rng.uniform(size=8), rng.uniform(size=8)
        chosen = mixed_precision.worth_keeping_float(sensitivity, cost, 1.5)
        choices = [[i for i in range(8) if mask >> i & 1] for mask in range(256)]
        best = max(sensitivity[c].sum() for c in choices if cost[c].sum() <= 1.5)
        assert cost[chosen].sum() <= 1.5
        assert sensitivity[chosen].sum() == pytest.approx(best)
        for unit in (1e-5, 1e-8):  # one layer in INT8 changes the outputs little, and takes microseconds
            assert mixed_precision.worth_keeping_float(unit * sensitivity, unit * cost, unit * 1.5) == chosen


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_half_precision_halves_the_weights_and_computes_with_them_in_both_runtimes(task: FakeTask, tmp_path: Path, kind: Any) -> None:
    artifact = exported(task, trained(task).module)
    half = HalfPrecision(kind=kind).apply(artifact, task)
    said = {p.key: p.value for p in onnx.load(str(half.files[0])).metadata_props}
    assert "planish.class_names" in said
    assert '"half_precision"' in said["planish.lineage"]
    rounded, bytes_of_weights = onnx.load(str(artifact.files[0])), 0
    for tensor in rounded.graph.initializer:
        if len(tensor.dims) > 1:
            values = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            bytes_of_weights += values.nbytes
            narrow = values.to(torch.float16 if kind == "fp16" else torch.bfloat16).float().numpy()
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    assert artifact.size_bytes - half.size_bytes > 0.4 * bytes_of_weights
    onnx.save(rounded, str(tmp_path / "rounded.onnx"))
    expected = load((tmp_path / "rounded.onnx",), "onnxruntime")(images_of(task))["logits"]
    assert np.abs(expected - logits(artifact, task)).max() > 0
    for files, runtime in ((half.files, "onnxruntime"), (ToOpenVino().apply(half, task).files, "openvino")):
        assert np.abs(load(files, runtime)(images_of(task))["logits"] - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_weight_beyond_fp16_is_refused(task: FakeTask) -> None:
    network = Lopsided()
    network.head.weight.data[0, 0] = 1e6
    artifact = exported(task, network)
    with pytest.raises(TechniqueError, match="fp16 ends before"):
        HalfPrecision().apply(artifact, task)
    assert HalfPrecision(kind="bf16").apply(artifact, task).facts["precision"] == "bf16_weights"


@pytest.fixture
def off_grid() -> Any:
    """Few values, each 0.4 of a step above a whole number of steps: rounded to the nearest, all errors have one sign."""
    steps = np.random.default_rng(0).choice([-99.6, -49.6, -19.6, 5.4, 30.4, 80.4], (32, 16 * 9))
    steps[:, 0] = 127
    return (steps / 127 / 10).astype(np.float32)


def test_errors_of_shared_weights_cancel(off_grid: Any) -> None:
    largest = np.abs(off_grid).max(1)
    factor = stretch(off_grid, largest)
    steps = 127 * off_grid / largest[:, None]
    assert 1 < factor <= 1.25
    nearest, stretched = (np.abs((np.rint(steps / f) * f - steps).sum(1)).mean() for f in (1, factor))
    assert stretched < 0.2 * nearest


@pytest.mark.parametrize("per_channel", [True, False])
def test_shared_weights_survive_int8(task: FakeTask, off_grid: Any, per_channel: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)
    )  # fmt: skip
    with torch.no_grad():
        network[2].weight.copy_(torch.from_numpy(off_grid).view(32, 16, 3, 3))
    dense = Artifact("torch", SPEC, PREPROCESSING, task.class_names, Lineage(Source("module", 3, 3)), module=network.eval())
    shared = WeightSharing().apply(dense, task)
    images = np.ascontiguousarray(task.split("validation").images(SPEC, PREPROCESSING)[:16])
    step = Int8(calibration_images=32, per_channel=per_channel, correct_bias=False)

    def noise(given: Artifact) -> float:
        found, exact = (load(a.files, "onnxruntime")(images)["logits"] for a in (step.apply(given, task), given))
        return float(np.square(found - exact).mean())

    exported = ToOnnx().apply(shared, task)
    unaware = replace(exported, lineage=replace(exported.lineage, steps=exported.lineage.steps[1:]))
    assert unaware.facts["weights"] == "dense"
    assert noise(exported) < 0.5 * noise(unaware)
    model = onnx.load(str(step.apply(exported, task).files[0]))
    integers = [
        numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_quantized") and t.data_type == onnx.TensorProto.INT8
    ]
    assert min(len(np.unique(w)) for w in integers) <= 7


def test_seven_bit_weights_never_overflow_a_pair_of_products(task: FakeTask, tmp_path: Path) -> None:
    """255 times two weights must fit into 16 bits; with 8 bits it does not. And the file still says what the float one says."""
    artifact = ToOnnx().apply(trained(task), task)
    files = {bits: Int8(weight_bits=bits).apply(artifact, task).files for bits in (7, 8)}
    largest = {}
    for bits, (file, *_) in files.items():
        tensors = [numpy_helper.to_array(t) for t in onnx.load(str(file)).graph.initializer]
        largest[bits] = max(int(np.abs(t.astype(int)).max()) for t in tensors if t.dtype == np.int8 and t.ndim > 1)
    assert largest[8] == 127
    assert 255 * 2 * largest[7] < 2**15 <= 255 * 2 * largest[8]
    pixels = np.random.default_rng(0).integers(0, 256, (4, SPEC.height, SPEC.width, SPEC.channels), np.uint8)
    expected = load(artifact.files, "onnxruntime")(pixels)["logits"]
    error = {bits: float(np.abs(load(f, "onnxruntime")(pixels)["logits"] - expected).mean()) for bits, f in files.items()}
    assert error[7] < 3 * error[8] + 0.01 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 fma", True), ("avx2 avx_vnni", False), ("avx512f avx512_vnni", False), ("amx_int8", False)]
)
def test_processors_that_saturate(flags: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert machine.saturates() == expected
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert not machine.saturates()


@pytest.mark.parametrize("name", ["", "node"])
def test_nodes_may_have_no_names_or_all_the_same(task: FakeTask, tmp_path: Path, name: str) -> None:
    artifact = exported(task, trained(task).module)
    model = onnx.load(str(artifact.files[0]))
    for node in model.graph.node:
        node.name = name
    onnx.save(model, str(tmp_path / "unnamed.onnx"))
    unnamed = replace(artifact, files=(tmp_path / "unnamed.onnx",))
    for technique in (Int8(correct_bias=False), Int8()):
        expected, found = (technique.apply(given, task) for given in (artifact, unnamed))
        assert found.lineage.steps[-1].notes == expected.lineage.steps[-1].notes
        np.testing.assert_array_equal(logits(found, task), logits(expected, task))
