"""In localisation tasks, the input has the images' shape; a smaller one stays what the strides of maps divide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from planish.compression import Resolution
from planish.errors import GoalError, ModelError, TechniqueError
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.settings import ModelSettings
from planish.training.prepare import Job, prepare_job


def wide_images(folder: Path, height: int, width: int) -> Path:
    """Ten images with one bright square of a sixth of the height each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for i in range(10):
        pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
        side, top, left = height // 6, int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        pixels[top : top + side, left : left + side] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        boxes.append({"id": i, "image_id": i, "category_id": 1, "bbox": [left, top, side, side], "iscrowd": 0, "area": side * side})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def prepared(folder: Path, size: int | None) -> Job:
    return prepare_job(folder, ModelSettings("resnet8", image_size=size))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((100, 200), 96, (64, 128)), ((100, 104), 96, (96, 96)), ((200, 100), 96, (128, 64)), ((100, 200), 224, (160, 320))],
)
def test_the_input_has_the_shape_of_the_images(tmp_path: Path, shape: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    job = prepared(wide_images(tmp_path / "wide", *shape), size)
    spec = job.artifact.input_spec
    assert (spec.height, spec.width) == expected
    strides = job.artifact.lineage.source.strides
    assert all(side % max(strides) == 0 for side in expected)


@pytest.mark.parametrize(
    ("name", "expected"), [("ssdlite320_mobilenet_v3_large", (80, 144)), ("fasterrcnn_mobilenet_v3_large_320_fpn", (64, 160))]
)
def test_the_maps_of_torchvisions_detectors_cover_the_image_exactly(tmp_path: Path, name: str, expected: tuple[int, int]) -> None:
    job = prepare_job(wide_images(tmp_path / "wide", 100, 200), ModelSettings(name, task="detection", image_size=104))
    assert (job.artifact.input_spec.height, job.artifact.input_spec.width) == expected


def test_a_wide_input_is_learned_from_and_exported(tmp_path: Path) -> None:
    from planish.commands import export, train, verify

    folder = wide_images(tmp_path / "wide", 100, 200)
    train(folder, model="resnet8", out=tmp_path / "m", changes=["epochs=1", "image_size=96"])
    bundle = export(tmp_path / "m", folder, to="onnx", out=tmp_path / "b")
    assert verify(bundle, latency=False).ok


def test_a_smaller_input_stays_a_multiple_of_the_strides(tmp_path: Path) -> None:
    job = prepared(wide_images(tmp_path / "wide", 100, 100), 96)
    smaller = Resolution(0.75).apply(job.artifact, job.task)
    assert smaller.input_spec.height == 80, "72 is no multiple of 16"
    file = ToOnnx().apply(smaller, job.task)
    outputs = load(file.files, "onnxruntime")(np.zeros((2, 80, 80, 3), np.uint8))
    assert len(outputs["boxes"]) == 2


def test_an_input_below_one_stride_is_refused(tmp_path: Path) -> None:
    job = prepared(wide_images(tmp_path / "wide", 100, 100), 32)
    with pytest.raises(TechniqueError, match="an image needs at least 16"):
        Resolution(0.2).apply(job.artifact, job.task)


def test_height_and_width_can_be_set_apart(tmp_path: Path) -> None:
    folder = wide_images(tmp_path / "wide", 100, 200)
    spec = prepare_job(folder, ModelSettings("resnet8", image_size="96x96")).artifact.input_spec
    assert (spec.height, spec.width) == (96, 96)  # 96 alone is 64 x 128, the shape of the images
    with pytest.raises(GoalError, match=r"100 x 210 pixels for resnet8.*multiples of its stride.*for example \d+x\d+"):
        prepare_job(folder, ModelSettings("resnet8", image_size="100x210"))


class Flat(nn.Module):
    """A classifier that runs on images of 16 x 48 pixels only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 8 * 24, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(torch.relu(self.conv(images)).flatten(1))
        return logits


@pytest.mark.parametrize(("shape", "resize"), [((20, 60), "squash"), ((40, 40), "crop")])
def test_a_classifier_for_images_that_are_not_square(tmp_path: Path, shape: tuple[int, int], resize: str) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / "images" / name / f"{number}.png")
    job = prepare_job(tmp_path / "images", ModelSettings(Flat(), image_size="16x48"))
    spec, how = job.artifact.input_spec, job.artifact.preprocessing
    assert (spec.height, spec.width, how.resize) == (16, 48, resize)
    assert job.task.split("train").images(spec, how)[:2].shape == (2, 16, 48, 3)
    exported = ToOnnx().apply(job.artifact, job.task)
    pixels = np.ascontiguousarray(job.task.split("validation").images(spec, how))
    assert load(exported.files, "onnxruntime")(pixels)["logits"].shape == (len(pixels), 3)
    with pytest.raises(ModelError, match="16x16 image"):
        prepare_job(tmp_path / "images", ModelSettings(Flat(), image_size=16))
