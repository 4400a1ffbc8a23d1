"""A folder with everything that the commands of the documentation name: photos, boxes, masks, a model, a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import planish
from planish.commands import export
from planish.models.storage import load_artifact
from planish.testing import write_shapes

_NET = """
from torch import nn


def make(num_classes):
    features = nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*features, nn.Linear(8, num_classes))
"""


def write_workspace(folder: Path) -> Path:
    """Write all files, and return the folder."""
    photos = write_shapes(folder / "photos", per_class=40)
    (folder / "images").mkdir()
    for file in photos.rglob("*.png"):
        shutil.copy(file, folder / "images" / f"{file.parent.name}-{file.name}")
    shutil.make_archive(str(folder / "photos"), "zip", photos)
    write_shapes(folder / "unsorted", per_class=10, seed=5)
    (folder / "int8.yaml").write_text("- {name: to_onnx}\n- {name: int8}\n")
    for name, shape in (("good", "disc"), ("defective", "cross")):
        shutil.copytree(photos / shape, folder / "parts" / name)
    shutil.copy(photos / "disc" / "0000.png", folder / "photo.jpg")  # files are recognised by their content
    _write_boxes(folder / "boxes")
    _write_cells(folder / "cells")
    planish.train(photos, model="resnet8x0.5", changes=["epochs=20"], out=folder / "model")
    export(folder / "model", photos, to="onnx", int8=True, out=folder / "runs" / "photos" / "bundle")
    _write_networks(folder)
    return folder


def _write_boxes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    images, annotations = [], []
    for number in range(30):
        name = f"{number:03d}.png"
        Image.fromarray(rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": 96, "height": 64})
        x, y = map(int, rng.integers(0, 40, 2))
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 20, 20], "area": 400, "iscrowd": 0})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (folder / "annotations.json").write_text(json.dumps(coco))


def _write_cells(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(30):
        mask = np.zeros((48, 48), np.uint8)
        y, x = rng.integers(0, 30, 2)
        mask[y : y + 16, x : x + 16] = 1
        pixels = rng.integers(0, 90, (48, 48, 3)) + 120 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")


def _write_networks(folder: Path) -> None:
    artifact = load_artifact(folder / "model")
    assert isinstance(artifact.module, nn.Module)
    batch = {0: torch.export.Dim("batch")}
    torch.onnx.export(
        artifact.module.eval(), (torch.zeros(2, 1, 24, 24),), folder / "classifier.onnx", dynamo=True, dynamic_shapes=(batch,)
    )
    (folder / "net.py").write_text(_NET)
    made: dict[str, nn.Module] = {}
    exec(_NET + "\nnetwork = make(3)", made)
    torch.save(made["network"].state_dict(), folder / "net.pth")
