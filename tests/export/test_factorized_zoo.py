"""Published networks, factorised, saved, loaded without pickle, exported, and equal in ONNX Runtime to 1e-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.compression import ChannelPruning, Factorize
from planish.compression.calibration import calibration_batches
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.models import load_artifact, save_artifact
from planish.models.batch_norm import reestimate_batch_norm
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import prepare_job

SLOW = [
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "convnext_tiny",
    "vgg16_bn",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("photos") / "shapes", per_class=8, size=96, channels=3)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_factorised_saved_loaded_exported(name: str, photos: Path, tmp_path: Path) -> None:
    job = prepare_job(photos, ModelSettings(f"torchvision:{name}", image_size=96))
    # statistics of images, as a trained network has: what is left after a cut is fitted to what the whole network says with its own
    reestimate_batch_norm(job.artifact.module, (images for images, _ in calibration_batches(job.artifact, job.task)()))
    split = Plan(ChannelPruning(pruning_ratio=0.2), Factorize(parameter_reduction=0.3, runtime=None)).apply(job.artifact, job.task)
    assert split.size_bytes < 0.6 * job.artifact.size_bytes
    save_artifact(split, tmp_path / "saved")
    loaded = load_artifact(tmp_path / "saved")
    exported = ToOnnx().apply(loaded, job.task)
    images = np.ascontiguousarray(job.task.split("validation").images(split.input_spec, split.preprocessing))
    expected = TorchPredictor(split.module, split.preprocessing)(images)["logits"]
    found = load(exported.files, "onnxruntime")(images)["logits"]
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    print(f"{name}: {split.lineage.steps[-1].notes}")
