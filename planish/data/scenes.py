"""``fashion-scenes``: several garments of ``fashion-mini`` on a cluttered canvas, with exact boxes and masks; made here, from a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.data.cache import disk_full_told, in_threads, whole
from planish.progress import Stage

Pixels = npt.NDArray[np.uint8]

SCENES = {"train": 5000, "validation": 500, "test": 1000}
SIDE = 128
ANNOTATIONS = "_annotations.coco.json"
_VERSION = 1  # raise when scenes change
_HELD_OUT = 0.15  # of the train garments, for validation scenes
_SIZES = (18, 72)  # pixels of a garment's side
_COVERED = 0.3  # of a garment, at most
_BYTES = 26_000  # of a scene's file, about


def scenes_folder(arrays: dict[str, Any], cache_dir: Path, train: int = SCENES["train"]) -> Path:
    """The folder of the scenes, made on first use: ``train/``, ``validation/`` and ``test/``, each with its COCO file.

    Args:
        arrays: of ``fashion-mini``: images, labels and class names. Test scenes are made of test garments, validation scenes of garments
            that no train scene has.
        cache_dir: where.
        train: how many train scenes; there are a tenth as many for validation, and a fifth for test.
    """
    numbers = {"train": train, "validation": max(50, train // 10), "test": max(100, train // 5)}
    folder = cache_dir / f"fashion-scenes-{train}" / f"v{_VERSION}"
    if folder.is_dir():
        return folder
    classes = [str(name) for name in arrays["classes"]]
    order = np.random.default_rng(0).permutation(len(arrays["train_labels"]))
    held_out, learned = np.split(order, [int(_HELD_OUT * len(order))])
    garments = {
        "train": (arrays["train_images"][learned], arrays["train_labels"][learned]),
        "validation": (arrays["train_images"][held_out], arrays["train_labels"][held_out]),
        "test": (arrays["test_images"], arrays["test_labels"]),
    }
    total = sum(numbers.values())
    with whole(folder) as partial, disk_full_told(cache_dir, lambda: _BYTES * total), Stage("composing fashion-scenes", total) as stage:
        for seed, (split, count) in enumerate(numbers.items()):
            _write(partial / split, *garments[split], classes, count, seed, stage)
    return folder


def _write(folder: Path, images: Pixels, labels: Sequence[int], classes: list[str], count: int, seed: int, stage: Stage) -> None:
    from pycocotools import mask as coco

    folder.mkdir()

    def work(number: int) -> list[dict[str, Any]]:
        pixels, masks, which = compose(images, np.random.default_rng((seed, number)))
        Image.fromarray(pixels).save(folder / f"{number:05d}.png", compress_level=1)
        found = []
        for mask, garment in zip(masks, which, strict=True):
            lengths = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
            shown = {"size": lengths["size"], "counts": lengths["counts"].decode()}
            box, area = coco.toBbox(lengths).tolist(), int(mask.sum())
            found.append(
                {"image_id": number, "category_id": int(labels[garment]), "bbox": box, "area": area, "iscrowd": 0, "segmentation": shown}
            )
        return found

    annotations: list[dict[str, Any]] = []
    for chunk in in_threads(work, count):
        annotations += [one for each in chunk for one in each]
        stage.advance(len(chunk))
    described = {
        "info": {"description": "fashion-scenes: garments of Fashion-MNIST (MIT licence) on canvases made by Planish"},
        "images": [{"id": i, "file_name": f"{i:05d}.png", "width": SIDE, "height": SIDE} for i in range(count)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": [{"id": i + 1, **one} for i, one in enumerate(annotations)],
    }
    (folder / ANNOTATIONS).write_text(json.dumps(described))


def compose(images: Pixels, rng: np.random.Generator) -> tuple[Pixels, list[npt.NDArray[np.bool_]], list[int]]:
    """One scene: pixels ``(SIDE, SIDE, 3)``, what is to be seen of each garment ``(SIDE, SIDE)``, and which garments they are.

    Args:
        images: garments, uint8 ``(N, 28, 28)``, light on black.
        rng: decides everything.
    """
    canvas = _canvas(images, rng)
    masks: list[npt.NDArray[np.bool_]] = []
    which: list[int] = []
    for _ in range(rng.integers(1, 7)):
        garment, size = int(rng.integers(len(images))), int(np.exp(rng.uniform(*np.log(_SIZES))))
        grey = Image.fromarray(images[garment]).resize((size, size), Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            grey = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        grey = grey.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        x, y = rng.integers(0, SIDE - size + 1, 2)
        values = np.asarray(grey, np.float32)
        solid = values > 24
        mask = np.zeros((SIDE, SIDE), bool)
        mask[y : y + size, x : x + size] = solid
        if solid.sum() < 40 or any((mask & other).sum() > _COVERED * min(other.sum(), mask.sum()) for other in masks):
            continue
        tint = rng.uniform(0.45, 1.0, 3)
        light = 0.35 + 0.65 * values / 255
        part = canvas[y : y + size, x : x + size]
        part[solid] = (255 * light[..., None] * tint)[solid]
        masks = [other & ~mask for other in masks]
        masks.append(mask)
        which.append(garment)
    noisy = canvas + rng.normal(0, 4, canvas.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), masks, which


def _canvas(images: Pixels, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A gradient with patches, bars and blurred garments, none of which is an object."""
    corners = rng.uniform(20, 200, (2, 2, 3)).astype(np.uint8)
    canvas = np.array(Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    for _ in range(rng.integers(2, 7)):
        height, width = rng.integers(4, 50, 2)
        y, x = rng.integers(0, SIDE - height), rng.integers(0, SIDE - width)
        if rng.random() < 0.5:
            height = max(2, height // 8)
        canvas[y : y + height, x : x + width] = rng.uniform(0, 255, 3)
    for _ in range(rng.integers(0, 3)):
        size = int(rng.integers(30, 70))
        blurred = Image.fromarray(images[rng.integers(len(images))]).resize((4, 4)).resize((size, size), Image.Resampling.BILINEAR)
        y, x = rng.integers(0, SIDE - size, 2)
        share = np.asarray(blurred, np.float32)[..., None] / 255
        part = canvas[y : y + size, x : x + size]
        part[:] = part * (1 - share) + share * rng.uniform(60, 255, 3)
    return canvas
