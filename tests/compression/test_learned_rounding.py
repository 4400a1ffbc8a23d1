"""Rounding that is learned: never worse than the nearest, close to the best there is, and stored in the bits it says."""

import itertools
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask, trained
from onnx import numpy_helper
from torch import nn

from planish.artifact import Artifact
from planish.compression import LearnedRounding, QuantizeAware
from planish.compression.quantization.learned_rounding import Rounding, _units
from planish.errors import TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.models.quantized import best_scale, packed_weight, unpack


@pytest.fixture(scope="module")
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture(scope="module")
def network(task: FakeTask) -> Artifact:
    return trained(task)


def _error(after: Artifact, before: Artifact, task: FakeTask) -> float:
    images = task.split("validation").images(SPEC, PREPROCESSING)
    found, wanted = (TorchPredictor(a.module, PREPROCESSING)(images)["logits"] for a in (after, before))
    return float(np.square(found - wanted).mean())


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    """A layer of eight weights has 256 roundings up or down; over eight layers, most of what nearest rounding loses to the best is won."""
    lost = missing = 0.0
    for seed in range(8):
        torch.manual_seed(seed)
        layer = nn.Linear(8, 1)
        inputs = torch.randn(200, 8) @ torch.randn(8, 8) + 1  # correlated: no weight can be rounded for itself
        weight, bias, scale = layer.weight.detach().flatten(), layer.bias.detach(), best_scale(layer.weight, 2)
        wanted = inputs @ weight + bias

        def error(integers: torch.Tensor, inputs=inputs, scale=scale, bias=bias, wanted=wanted) -> float:  # type: ignore[no-untyped-def]
            return float((inputs @ (integers.flatten().clamp(-2, 1) * scale) + bias - wanted).square().mean())

        best = min(error((weight / scale).floor() + torch.tensor(ups)) for ups in itertools.product((0.0, 1.0), repeat=8))
        nearest = error((weight / scale).round())
        rounding = Rounding(layer.weight, scale, 2)
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", rounding)
        LearnedRounding(steps=400)._learn(layer, [rounding], inputs, wanted[:, None])
        found = error(rounding.integers())
        assert found >= best - 1e-6
        lost, missing = lost + nearest - best, missing + min(found, nearest) - best
    assert lost > 0.2
    assert missing < 0.2 * lost


@pytest.mark.parametrize("granularity", ["layer", "block"])
def test_a_trained_network_keeps_more_than_with_nearest_rounding(network: Artifact, task: FakeTask, granularity: str) -> None:
    nearest = QuantizeAware(weight_bits=2, epochs=0)
    learned = LearnedRounding(bits=2, granularity=granularity, steps=200).apply(network, task)  # type: ignore[arg-type]
    assert _error(learned, network, task) < 0.6 * _error(nearest.apply(network, task), network, task)


def test_saved_weights_take_their_bits(network: Artifact, task: FakeTask) -> None:
    after = LearnedRounding(bits=4, steps=5).apply(network, task)
    layer = after.module.deep[0]
    stored = packed_weight(layer)
    assert stored is not None
    assert stored.bits == 4
    original = layer.parametrizations.weight.original
    assert (original.dtype, original.numel()) == (torch.uint8, layer.weight.numel() // 2)
    assert packed_weight(after.module.stem[0]).bits == packed_weight(after.module.head).bits == 8  # type: ignore[union-attr]
    assert after.size_bytes < 0.35 * network.size_bytes


def test_the_very_integers_reach_the_int8_file(network: Artifact, task: FakeTask) -> None:
    rounded = LearnedRounding(bits=4, steps=20).apply(network, task)
    quantized = QuantizeAware(epochs=0).apply(rounded, task)
    for artifact, runtime, tolerance in ((rounded, "onnxruntime", 1e-4), (quantized, "onnxruntime", 0.1)):
        exported = ToOnnx().apply(artifact, task)
        images = task.split("validation").images(SPEC, PREPROCESSING)
        wanted = TorchPredictor(artifact.module, PREPROCESSING)(images)["logits"]
        assert np.abs(load(exported.files, runtime)(images)["logits"] - wanted).max() < tolerance * np.abs(wanted).max()
        graph = onnx.load(str(exported.files[0])).graph
        stored = {numpy_helper.to_array(t).tobytes() for t in graph.initializer if t.data_type == onnx.TensorProto.INT8}
        for layer in (layer for layer in rounded.module.modules() if isinstance(layer, nn.Conv2d)):
            weight = layer.parametrizations.weight
            assert unpack(weight.original, weight[0].bits, weight[0].shape).numpy().tobytes() in stored


def test_blocks_are_residual_blocks() -> None:
    import torchvision

    net = torchvision.models.resnet18(weights=None).eval()
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    units = _units(net, layers, "block", torch.zeros(1, 3, 32, 32))
    assert list(units) == ["conv1", *[f"layer{i}.{j}" for i in range(1, 5) for j in range(2)], "fc"]
    assert units["layer2.0"] == ["layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"]


def test_what_cannot_be_rounded_is_refused(network: Artifact, task: FakeTask) -> None:
    empty = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))
    with pytest.raises(TechniqueError, match="no convolution"):
        LearnedRounding().apply(replace(network, module=empty), task)
    broken = trained(task)
    nn.init.constant_(broken.module.wide[0].weight, float("inf"))
    with pytest.raises(TechniqueError, match="not finite"):
        LearnedRounding(steps=2).apply(broken, task)
