"""Binary and ternary weights: the published scales, values that are what they say, and training that helps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, trained
from test_quantize_aware import TrainableTask
from torch import nn

from planish.artifact import Artifact
from planish.compression import Binarize
from planish.compression.quantization.binarize import BinaryActivation, BinaryScale, ternary_scale
from planish.errors import TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import executed_precisions
from planish.models.quantized import LearnedScale, packed_weight


@pytest.fixture(scope="module")
def task() -> TrainableTask:
    return TrainableTask()


@pytest.fixture(scope="module")
def network(task: TrainableTask) -> Artifact:
    return trained(task)


def test_scales_begin_as_published() -> None:
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sizes = weight.abs().numpy()
    binary = BinaryScale(weight)
    torch.testing.assert_close(binary.scale().detach(), torch.from_numpy(sizes.mean(1)))
    torch.testing.assert_close(binary(weight).detach(), torch.from_numpy(np.sign(weight.numpy()) * sizes.mean(1, keepdims=True)))
    expected = np.array([row[row > 0.7 * row.mean()].mean() for row in sizes], dtype=np.float32)
    torch.testing.assert_close(ternary_scale(weight), torch.from_numpy(expected))
    ternary = LearnedScale(ternary_scale(weight), -1, 1)(weight) / torch.from_numpy(expected)[:, None]
    assert sorted(set(ternary.round(decimals=4).flatten().tolist())) == [-1, 0, 1]


@pytest.mark.parametrize("size", [1.0, 1e9])
def test_binary_weights_of_any_size(size: float) -> None:
    weight = (size * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))).requires_grad_()
    binary = BinaryScale(weight)
    signs = binary(weight) / binary.scale()[:, None]
    assert signs.unique().tolist() == [-1, 1]
    signs.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.ones_like(weight))


def test_activations_take_two_values_and_gradients_pass_near_the_threshold() -> None:
    binary = BinaryActivation(nn.Conv2d(2, 3, 1))
    nn.init.constant_(binary.threshold, 0.5)
    nn.init.constant_(binary.size, 2.0)
    x = torch.tensor([-3.0, 0.0, 0.5, 2.0, 4.0]).reshape(1, 1, 1, 5).expand(1, 2, 1, 5).clone().requires_grad_()
    y = binary(x)
    assert y[0, 0, 0].tolist() == [-2, -2, 2, 2, 2]
    assert torch.equal(binary.eval()(x), y)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0, 0].tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(("weights", "bits", "values"), [("binary", 1, {-1, 1}), ("ternary", 2, {-1, 0, 1})])
def test_weights_are_what_they_say_and_training_helps(
    network: Artifact, task: TrainableTask, weights: Any, bits: int, values: set[int]
) -> None:
    def accuracy(artifact: Artifact) -> float:
        images = task.split("validation").images(SPEC, PREPROCESSING)
        return float(task.scores(TorchPredictor(artifact.module, PREPROCESSING)(images), task.split("validation").targets).mean())

    untrained = Binarize(weights, epochs=1, batch_size=96, learning_rate=1e-9).apply(network, task)
    after = Binarize(weights, epochs=8, batch_size=16, learning_rate=3e-3).apply(network, task)
    assert accuracy(after) > max(0.8, accuracy(untrained))
    layer = after.module.wide[0]
    stored = packed_weight(layer)
    assert stored is not None
    assert stored.bits == bits
    assert layer.parametrizations.weight.original.numel() == layer.weight.numel() * bits // 8
    assert set((layer.weight / stored.scale.reshape(-1, 1, 1, 1)).round(decimals=4).unique().tolist()) == values
    for name in ("stem.0", "head"):
        assert packed_weight(after.module.get_submodule(name)) is None
    exported = ToOnnx().apply(after, task)
    assert executed_precisions(exported.files, "onnxruntime")["int8"] == 0, "no kernel computes with them: smaller, not faster"


def test_binary_activations_train_and_export(network: Artifact, task: TrainableTask) -> None:
    after = Binarize(activations="binary", epochs=2, batch_size=16).apply(network, task)
    assert len([m for m in after.module.modules() if isinstance(m, BinaryActivation)]) == 5
    assert after.facts["precision"] == "binary"
    ToOnnx().apply(after, task)


def test_a_network_of_two_layers_is_refused(network: Artifact, task: TrainableTask) -> None:
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(TechniqueError, match="at most two layers"):
        Binarize().apply(replace(network, module=small), task)
