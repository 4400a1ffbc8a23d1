"""Every technique on every network people use: it applies, exports and agrees with PyTorch, but for the pairs that are refused."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from planish.artifact import Artifact
from planish.compression import (
    Binarize,
    BlockPruning,
    ChannelPruning,
    Factorize,
    Int8,
    LatencyPruning,
    LearnedRounding,
    NMPruning,
    QuantizeAware,
    Resolution,
    UnstructuredPruning,
    WeightSharing,
)
from planish.compression.pruning import sensitivity
from planish.devices import latency_worker
from planish.errors import ExportError, PlanError, TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.task import Task
from planish.technique import Technique
from planish.testing import write_shapes
from planish.training import Distill
from planish.training.prepare import prepare_job

if TYPE_CHECKING:
    from planish.artifact import Pixels

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0", "densenet121", "regnet_y_400mf",
    "convnext_tiny", "vgg16_bn",
)  # fmt: skip
TECHNIQUES: dict[str, Technique] = {
    t.name: t
    for t in (
        ChannelPruning(pruning_ratio=0.5),
        LatencyPruning(speedup=1.5),
        BlockPruning(pruning_ratio=0.3),
        UnstructuredPruning(sparsity=0.8),
        NMPruning(),
        WeightSharing(),
        Factorize(parameter_reduction=0.3, runtime=None),
        Resolution(scale=0.75),
        LearnedRounding(bits=4, calibration_images=32, steps=5),
        QuantizeAware(calibration_images=32, epochs=0),
        Binarize(epochs=1),
    )
}
REFUSED = {("block_pruning", name) for name in ("densenet121", "shufflenet_v2_x1_0", "vgg16_bn")}  # no shortcut is added to its block
SIZE = 64
MOVED = 0.04  # twice what INT8 amounts to in these networks (0.01 of the weights, as much of each activation), as if with a bit less
MARGIN_DB = 3.0  # between two draws of noise; where hardly anything is left of the logits, both are near 0 dB (0.0 and 2.5 seen)
Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=30, size=SIZE, channels=3)


@pytest.fixture(autouse=True)
def _quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well latency pruning weighs and times is tested elsewhere; here any widths will do, and minutes a network are saved."""
    monkeypatch.setattr(sensitivity, "_SECONDS", 1.0)
    monkeypatch.setattr(latency_worker, "_ROUNDS", 1)
    monkeypatch.setattr(latency_worker, "_TURN_S", 0.0)


def signal_to_noise(expected: Logits, found: Logits) -> float:
    """In dB."""
    return float(10 * np.log10((expected**2).sum() / max(((found - expected) ** 2).sum(), 1e-30)))


def moved(module: nn.Module, seed: int) -> nn.Module:
    """The network with each weight of its convolutions and linear layers changed by about ``MOVED``, at random."""
    module, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter *= 1 + MOVED * torch.randn(parameter.shape, generator=generator)
    return module


def validation_pixels(artifact: Artifact, task: Task) -> Pixels:
    return np.ascontiguousarray(task.split("validation").images(artifact.input_spec, artifact.preprocessing)[:8])


def left_when_moved(artifact: Artifact, task: Task) -> float:
    """The signal-to-noise ratio of the logits of the worst of a few networks with moved weights."""
    predictors = [TorchPredictor(moved(artifact.module, seed), artifact.preprocessing) for seed in range(5)]
    pixels = validation_pixels(artifact, task)
    expected = TorchPredictor(artifact.module, artifact.preprocessing)(pixels)["logits"]
    return min(signal_to_noise(expected, predictor(pixels)["logits"]) for predictor in predictors)


def int8_against_moved(artifact: Artifact, quantized: Artifact, task: Task) -> tuple[float, float]:
    """The signal-to-noise ratio of the INT8 file's logits, and ``left_when_moved``."""
    pixels = validation_pixels(artifact, task)
    expected = TorchPredictor(artifact.module, artifact.preprocessing)(pixels)["logits"]
    found = load(quantized.files, "onnxruntime")(pixels)["logits"]
    return signal_to_noise(expected, found), left_when_moved(artifact, task)


def _tried(technique: Technique, artifact: Artifact, task: Task) -> tuple[Artifact | None, str]:
    try:
        return technique.apply(artifact, task), ""
    except TechniqueError as error:
        return None, str(error)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_applies_exports_and_agrees_but_where_it_is_refused(name: str, network: str, images: Path) -> None:
    """What INT8 may cost is set by the network itself, which is untrained: no worse than moving each of its weights by 4 %.

    A fixed number of dB would judge the network, not INT8. Batch norm whose statistics were estimated on data, as pruning does, makes
    a random network amplify every difference, layer after layer (Yang et al. 2019, arXiv:1902.08129): in a MobileNetV2 where each layer
    adds noise at 35 to 44 dB, 3 to 6 dB are left of the logits, pruned or not; and in float too, noise in the pixels at 60 dB comes out
    at 20. Without that estimate the same network's logits are 1e-10, about equal for all images, and their 30 dB say as little.
    """
    job = prepare_job(images, ModelSettings(f"torchvision:{network}", image_size=SIZE))
    applied, reason = _tried(TECHNIQUES[name], job.artifact, job.task)
    assert (applied is None) == ((name, network) in REFUSED), reason
    if applied is None:
        return
    exported = ToOnnx().apply(applied, job.task)  # which compares with PyTorch itself
    if exported.facts["precision"] == "fp32":
        quantized = Int8(calibration_images=32).apply(exported, job.task)
        found, least = int8_against_moved(applied, quantized, job.task)
        print(f"INT8 of it: {found:.1f} dB, weights moved: {least:.1f} dB")
        assert found > least - MARGIN_DB


CHAIN = (
    ChannelPruning(pruning_ratio=0.3),
    Factorize(parameter_reduction=0.2, runtime=None),
    Distill(epochs=1, augmentation="none"),
    ToOnnx(),
    Int8(calibration_images=32),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_the_chain_of_four_keeps_what_each_step_won(network: str, images: Path) -> None:
    job = prepare_job(images, ModelSettings(f"torchvision:{network}", image_size=SIZE))
    artifact, sizes = job.artifact, []
    for step in CHAIN:
        artifact = step.apply(artifact, job.task)
        sizes.append(artifact.size_bytes)
    assert sizes[0] > sizes[1] == sizes[2]
    assert sizes[4] < 0.5 * sizes[3]
    assert [step.technique for step in artifact.lineage.steps] == [step.name for step in CHAIN]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_every_pair_combines_or_refuses(network: str, images: Path) -> None:
    job = prepare_job(images, ModelSettings(f"torchvision:{network}", image_size=SIZE))
    once = {}
    for name, technique in TECHNIQUES.items():
        try:
            once[name] = technique.apply(job.artifact, job.task)
        except TechniqueError:
            continue
    for first, second in itertools.product(once, TECHNIQUES):
        try:
            Plan(TECHNIQUES[second]).check(once[first].facts)
            both = TECHNIQUES[second].apply(once[first], job.task)
        except (PlanError, TechniqueError) as error:
            print(f"{first}, {second}: refused: {error}")
            continue
        try:
            ToOnnx().apply(both, job.task)
        except ExportError as error:  # an untrained network may make of two roundings what it makes of moved weights: noise
            assert both.facts["precision"] == "int8"
            left = left_when_moved(once[first], job.task)
            print(f"{first}, {second}: {error} (weights moved: {left:.1f} dB)")
            assert left < MARGIN_DB
