"""Agreement of two models on images without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from planish.commands import evaluate, export
from planish.errors import GoalError, ModelError
from planish.models import save_artifact
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import prepare_job

SIDE = 16
HOW = {"mean": [0.5], "std": [0.25]}


def exported(file: Path, classes: int = 6, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes)
    torch.onnx.export(
        nn.Sequential(*layers).eval(), (torch.randn(2, 3, SIDE, SIDE),), str(file), dynamo=False,
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, input_names=["x"], output_names=["y"], opset_version=17,
    )  # fmt: skip
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "photos", per_class=20, size=SIDE, channels=3)


def answers(file: Path, photos: Path) -> np.ndarray:
    pixels = np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos.rglob("*.png"))])
    images = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": images})[0].argmax(1)


def test_two_files(photos: Path, tmp_path: Path) -> None:
    one, other = exported(tmp_path / "one.onnx"), exported(tmp_path / "other.onnx", seed=3)
    found = evaluate(one, photos, reference=other, **HOW)["agreement"]
    assert found.n == 60
    assert found.value == pytest.approx(100 * (answers(one, photos) == answers(other, photos)).mean())
    assert evaluate(one, photos, reference=one, **HOW)["agreement"].value == 100


def test_a_bundle_with_the_model_it_was_made_of(photos: Path, tmp_path: Path) -> None:
    job = prepare_job(photos, ModelSettings("resnet8"))
    save_artifact(job.artifact, tmp_path / "model", job.data.assignment)
    export(tmp_path / "model", photos, to="onnx", out=tmp_path / "bundle")
    found = evaluate(tmp_path / "bundle", photos, reference=tmp_path / "model")["agreement"]
    assert (found.n, found.value) == (len(job.task.split("test")), 100)


def test_what_cannot_be_compared(photos: Path, tmp_path: Path) -> None:
    one, other = exported(tmp_path / "one.onnx"), exported(tmp_path / "other.onnx", classes=9)
    with pytest.raises(ModelError, match=r"6 classes.*9"):
        evaluate(one, photos, reference=other, **HOW)
    with pytest.raises(GoalError, match="--split, --calibrate with --reference"):
        evaluate(one, photos, reference=one, split="test", calibrate=True)
