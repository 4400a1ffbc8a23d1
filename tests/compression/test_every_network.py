"""Every technique on every network people use: it applies, exports and agrees with PyTorch, or refuses with a reason."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

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
from planish.errors import PlanError, TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes import load
from planish.plan import Plan
from planish.task import Task
from planish.technique import Technique
from planish.testing import write_shapes
from planish.training import Distill
from planish.training.prepare import prepare

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0", "efficientnet_b0", "densenet121", "regnet_y_400mf",
    "convnext_tiny", "vgg16_bn",
)  # fmt: skip
TECHNIQUES: dict[str, Technique] = {
    t.name: t
    for t in (
        ChannelPruning(ratio=0.5),
        LatencyPruning(speedup=1.5),
        BlockPruning(ratio=0.3),
        UnstructuredPruning(sparsity=0.8),
        NMPruning(),
        WeightSharing(),
        Factorize(ratio=0.3, runtime=None),
        Resolution(scale=0.75),
        LearnedRounding(bits=4, images=32, steps=20),
        QuantizeAware(images=32, epochs=0),
        Binarize(epochs=1),
    )
}
SIZE = 64


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=30, size=SIZE, channels=3)


def signal_to_noise(artifact: Artifact, exported: Artifact, task: Task) -> float:
    """In dB, of the exported file's logits against those of the network."""
    pixels = np.ascontiguousarray(task.split("validation").images(artifact.input_spec, artifact.preprocessing)[:8])
    expected = TorchPredictor(artifact.module, artifact.preprocessing)(pixels)["logits"]
    found = load(exported.files, "onnxruntime")(pixels)["logits"]
    return float(10 * np.log10((expected**2).sum() / max(((found - expected) ** 2).sum(), 1e-30)))


def _tried(technique: Technique, artifact: Artifact, task: Task) -> tuple[Artifact | None, str]:
    try:
        return technique.apply(artifact, task), ""
    except TechniqueError as error:
        return None, str(error)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_it_applies_exports_and_agrees_or_refuses(name: str, network: str, images: Path) -> None:
    job = prepare(images, f"torchvision:{network}", image_size=SIZE)
    applied, reason = _tried(TECHNIQUES[name], job.artifact, job.task)
    if applied is None:
        print(f"refused: {reason}")
        assert len(reason) > 40
        return
    exported = ToOnnx().apply(applied, job.task)  # which compares with PyTorch itself
    if exported.facts["precision"] == "fp32":
        quantized = Int8(images=32).apply(exported, job.task)
        found = signal_to_noise(applied, quantized, job.task)
        print(f"INT8 of it: {found:.1f} dB")
        assert found > 10


CHAIN = (ChannelPruning(ratio=0.3), Factorize(ratio=0.2, runtime=None), Distill(epochs=1, augmentation="none"), ToOnnx(), Int8(images=32))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_the_chain_of_four_keeps_what_each_step_won(network: str, images: Path) -> None:
    job = prepare(images, f"torchvision:{network}", image_size=SIZE)
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
    job = prepare(images, f"torchvision:{network}", image_size=SIZE)
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
        ToOnnx().apply(both, job.task)
