"""Quantization that learns: what it computes, what it exports, what it keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask, Images, trained
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from planish.artifact import Artifact
from planish.compression import Int8, QuantizeAware
from planish.compression.quantization.fake_quantization import place
from planish.errors import PlanError, TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import executed_precisions, load
from planish.models.quantized import best_scale, fake_quantize, pack, packed_weight, unpack
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.task import PLAIN_LOSS, LossSettings
from planish.tasks import Classification


class TrainableTask(FakeTask):
    augment = Classification.augment

    def __init__(self) -> None:
        super().__init__()
        self.splits["train"] = Images(96, 2)

    def loss(self, network: nn.Module, outputs: torch.Tensor, targets: torch.Tensor, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets)

    def distillation_loss(
        self, network: nn.Module, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float, targets: Any = None
    ) -> torch.Tensor:
        return functional.mse_loss(outputs, teacher)

    def scores(self, outputs: Any, targets: Any) -> Any:
        return (outputs["logits"].argmax(1) == targets).astype(float)


@pytest.fixture(scope="module")
def task() -> TrainableTask:
    return TrainableTask()


@pytest.fixture(scope="module")
def network(task: TrainableTask) -> Artifact:
    return trained(task)


@pytest.fixture(scope="module")
def learned(network: Artifact, task: TrainableTask) -> Artifact:
    bits = Int8.for_device().weight_bits
    return QuantizeAware(weight_bits=bits, epochs=3, batch_size=16, learning_rate=1e-3).apply(network, task)


@pytest.fixture(scope="module")
def exported(learned: Artifact, task: TrainableTask) -> Artifact:
    return ToOnnx().apply(learned, task)


@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_are_those_of_the_papers(per_channel: bool) -> None:
    torch.manual_seed(0)
    x, upstream = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    scale = torch.tensor([0.01, 0.02, 0.1, 0.3]) if per_channel else torch.tensor(0.011)
    zero = torch.tensor([0.0, 3.0, -5.0, 0.0]) if per_channel else torch.tensor(100.0)
    low, high = (-8, 7) if per_channel else (0, 255)
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero)]
    y = fake_quantize(*leaves, low, high)
    (y * upstream).sum().backward()
    s, z = (t.reshape(-1, 1, 1) if per_channel else t for t in (scale, zero))
    v = x / s
    below, above = v < low - z, v > high - z
    inside = ~(below | above)
    q = np.clip(np.rint((x / s).numpy()) + z.numpy(), low, high)
    torch.testing.assert_close(y.detach(), (torch.from_numpy(q) - z) * s)  # ONNX's definition
    of_scale = torch.where(inside, v.round() - v, torch.where(below, low - z, high - z)) * upstream
    of_zero = torch.where(inside, 0.0, -s * upstream)
    axes = (1, 2) if per_channel else (0, 1, 2)
    expected = (torch.where(inside, upstream, 0.0), of_scale.sum(axes), of_zero.sum(axes))
    assert 5 < int(inside.sum()) < 55
    for leaf, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_packed_integers_come_back_and_take_the_bytes_they_should(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, 3, 3, 3), generator=generator, dtype=torch.int8)
    values = values * 2 + 1 if bits == 1 else values
    packed = pack(values, bits)
    assert packed.numel() * packed.element_size() == -(-5 * 27 * bits // 8)
    assert torch.equal(unpack(packed, bits, (5, 3, 3, 3)), values)
    with pytest.raises(ValueError, match="do not fit"):
        pack(torch.tensor([2 ** (bits - 1) if bits < 8 else 0, -128], dtype=torch.int8), bits if bits < 8 else 4)


def test_no_other_scale_rounds_better() -> None:
    weight = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))

    def error(scale: torch.Tensor) -> torch.Tensor:
        return ((weight / scale[:, None]).round().clamp(-8, 7) * scale[:, None] - weight).square().sum(1)

    found = error(best_scale(weight, 4))
    tried = torch.stack([error(share * weight.abs().amax(1) / 7.5) for share in torch.linspace(0.2, 1.2, 300)])
    assert (found <= 1.05 * tried.amin(0)).all()


def test_learned_scales_reach_the_file_bit_for_bit(learned: Artifact, exported: Artifact, network: Artifact) -> None:
    graph = onnx.load(str(exported.files[0])).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    pairs = [(tensors[n.input[1]], tensors[n.input[2]]) for n in graph.node if n.op_type == "QuantizeLinear"]
    assert all(zero.dtype == np.uint8 for _, zero in pairs)
    in_file = {(scale.tobytes(), int(zero)) for scale, zero in pairs}
    ours = {(q.scale.numpy().tobytes(), int(q.zero_point)) for q in learned.module.quantizers().values()}
    assert in_file == ours
    assert len(ours) >= 13
    stored = [(tensors[n.input[0]], tensors[n.input[1]]) for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors]
    weights = {(w.tobytes(), s.tobytes()) for w, s in stored if w.dtype == np.int8}
    layers = [layer.parametrizations.weight for _, layer, _ in learned.module.layers()]
    assert weights == {(w.original.numpy().tobytes(), w[0].scale.numpy().tobytes()) for w in layers}
    calibrated = place(network.module, 3, 32, 32)
    assert len(calibrated.quantizers()) == len(learned.module.quantizers())


def test_no_two_layers_share_zero_points(exported: Artifact) -> None:
    """Where ONNX Runtime makes weights unsigned it replaces their zero points, and fails on one that is replaced already."""
    graph = onnx.load(str(exported.files[0])).graph
    stored = {t.name for t in graph.initializer}
    points = [n.input[2] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    assert len(points) == len(set(points)) > 10


def test_seven_bits_are_kept_in_every_layer_and_come_back(network: Artifact, task: TrainableTask, tmp_path: Path) -> None:
    applied = QuantizeAware(weight_bits=7, epochs=0).apply(network, task)
    weights = [layer.parametrizations.weight.original for _, layer, _ in applied.module.layers()]
    assert all(w.dtype == torch.int8 and int(w.min()) >= -64 and int(w.max()) <= 63 for w in weights)
    save_artifact(applied, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved", module=network.module)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.module(images), applied.module(images))


def test_training_moved_the_scales(network: Artifact, learned: Artifact, task: TrainableTask) -> None:
    start = QuantizeAware(epochs=0).apply(network, task).module.quantizers()
    for name, quantizer in learned.module.quantizers().items():
        moved = abs(float((quantizer.scale / start[name].scale).log()))
        assert 1e-4 < moved < 0.1 or (moved == 0 and quantizer.limit == 6), name  # where a ReLU6 was, it may not grow


def test_the_file_computes_what_was_trained(learned: Artifact, exported: Artifact, network: Artifact, task: TrainableTask) -> None:
    images = task.split("validation").images(SPEC, PREPROCESSING)
    wanted = TorchPredictor(learned.module, PREPROCESSING)(images)["logits"]
    _, head, quantizer = learned.module.layers()[-1]
    step = float(quantizer.scale * head.weight.abs().sum(1).max())  # every input of the last layer one step off
    for runtime in ("onnxruntime", "openvino"):
        found = load(exported.files, runtime)(images)["logits"]
        assert np.abs(found - wanted).max() < 2 * step
        assert np.median(np.abs(found - wanted)) < 0.01 * np.abs(wanted).max()
        assert executed_precisions(exported.files, runtime) == {"int8": 7, "float": 0}, runtime
    score = task.scores({"logits": wanted}, task.split("validation").targets).mean()
    before = task.scores(TorchPredictor(network.module, PREPROCESSING)(images), task.split("validation").targets).mean()
    assert score >= before - 0.03


def test_few_bits_make_it_smaller_and_training_helps(network: Artifact, learned: Artifact, task: TrainableTask) -> None:
    images = task.split("validation").images(SPEC, PREPROCESSING)
    wanted = TorchPredictor(network.module, PREPROCESSING)(images)["logits"]

    def error(technique: QuantizeAware) -> tuple[float, Artifact]:
        after = technique.apply(network, task)
        return float(np.square(TorchPredictor(after.module, PREPROCESSING)(images)["logits"] - wanted).mean()), after

    (rounded, _), (trained_error, small) = (
        error(QuantizeAware(2, epochs=0)),
        error(QuantizeAware(2, epochs=6, batch_size=16, learning_rate=3e-3)),
    )
    assert trained_error < 0.7 * rounded
    assert [packed_weight(layer).bits for _, layer, _ in small.module.layers()] == [8, *[2] * 5, 8]  # type: ignore[union-attr]
    assert small.size_bytes < learned.size_bytes
    ToOnnx().apply(small, task)


def test_networks_that_cannot_be_quantized_are_refused(network: Artifact, task: TrainableTask) -> None:
    from dataclasses import replace

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3)) if x.sum() > 0 else x.mean((2, 3))

    with pytest.raises(TechniqueError, match="hides its graph"):
        QuantizeAware().apply(replace(network, module=Branches()), task)
    with pytest.raises(TechniqueError, match="no convolution"):
        QuantizeAware().apply(replace(network, module=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))), task)
    broken = trained(task)
    nn.init.constant_(broken.module.stem[0].weight, float("nan"))
    with pytest.raises(TechniqueError, match="finite"):
        QuantizeAware(epochs=0).apply(broken, task)


def test_there_is_no_int8_after_it(learned: Artifact) -> None:
    plan = Plan.from_dicts([{"name": "to_onnx"}, {"name": "int8"}])
    with pytest.raises(PlanError, match="precision"):
        plan.check(learned.facts)
