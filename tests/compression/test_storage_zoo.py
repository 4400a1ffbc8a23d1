"""Published networks: zeros, shared weights and missing blocks apply or are refused, and the shipped file equals PyTorch to 1e-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.compression import BlockPruning, ChannelPruning, NMPruning, UnstructuredPruning, WeightSharing
from planish.errors import TechniqueError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import Pack, ToOnnx
from planish.export.runtimes.packed_file import unpacked
from planish.export.runtimes.registry import load
from planish.models import load_artifact, save_artifact
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import prepare_job

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "efficientnet_b0", "densenet121", "regnet_y_400mf",
    "convnext_tiny", "vgg16_bn",
)  # fmt: skip
WITHOUT_BLOCKS = ("shufflenet_v2_x1_0", "densenet121", "vgg16_bn")
PLANS = {  # with the most bytes a file may take, as a share of the dense float32 one
    "zeros": (Plan(UnstructuredPruning(sparsity=0.8)), 0.3),
    "n:m": (Plan(NMPruning()), 0.65),
    "shared": (Plan(WeightSharing(bits=4)), 0.15),
    "shared per channel": (Plan(WeightSharing(bits=4, per_channel=True)), 0.32),
    "zeros, shared": (Plan(UnstructuredPruning(sparsity=0.8), WeightSharing(bits=4)), 0.07),
    "blocks": (Plan(BlockPruning(pruning_ratio=0.5)), 0.9),
    "blocks, channels, zeros": (
        Plan(BlockPruning(pruning_ratio=0.3), ChannelPruning(pruning_ratio=0.3), UnstructuredPruning(sparsity=0.5)),
        0.6,
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("photos") / "shapes", per_class=8, size=64, channels=3)


@pytest.fixture(scope="module", params=NETWORKS)
def job(request: Any, photos: Path) -> Any:
    return prepare_job(photos, ModelSettings(f"torchvision:{request.param}", image_size=64))


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_applied_saved_packed_and_equal(job: Any, name: str, tmp_path: Path) -> None:
    plan, most = PLANS[name]
    if "blocks" in name and job.artifact.lineage.source.name.endswith(WITHOUT_BLOCKS):
        with pytest.raises(TechniqueError, match="no residual block"):
            plan.apply(job.artifact, job.task)
        return
    made = plan.apply(job.artifact, job.task)
    save_artifact(made, tmp_path / "saved")
    exported = ToOnnx().apply(load_artifact(tmp_path / "saved", original=made.original), job.task)
    packed = Pack().apply(exported, job.task)
    assert unpacked(packed.files[0]) == exported.files[0].read_bytes()
    share = packed.size_bytes / job.artifact.size_bytes
    print(f"{job.artifact.lineage.source.name}, {name}: {packed.size_bytes:,} bytes packed, {exported.size_bytes:,} exported, {share:.3f}")
    assert share < most
    images = np.ascontiguousarray(job.task.split("validation").images(made.input_spec, made.preprocessing))
    expected = TorchPredictor(made.module, made.preprocessing)(images)["logits"]
    assert np.abs(expected).max() > 0
    assert np.abs(load(packed.files, "onnxruntime")(images)["logits"] - expected).max() <= 1e-4 * np.abs(expected).max()
