"""``fashion-scenes``: images of several ``fashion-mini`` garments on a cluttered background, with exact boxes and masks.

A small synthetic test of detection and segmentation that needs no download, generated with a seed on first use: objects of 16 to 70 pixels
that overlap, are truncated by the edge of the image, and are surrounded by distractors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from planish.data.cache.files import full_disk_reported, in_threads, key_of, whole
from planish.data.sources.fashion import FashionMini, fashion_mini, fashion_mini_sha256
from planish.errors import DataError
from planish.progress import Stage

SceneSplit = Literal["train", "validation", "test"]
SIDE = 128
TRAIN_SCENES, VALIDATION_SCENES, TEST_SCENES = 5000, 500, 1000

_VERSION = 1  # increment when the same seed gives other pixels
_SMALLEST, _LARGEST = 16, 70  # longer side of a garment in pixels
_HOW_MANY = (0.14, 0.2, 0.22, 0.2, 0.14, 0.1)  # probability of 1, 2, ... garments
_MOST_TURNED = 20.0  # maximum rotation in degrees
_LEAST_VISIBLE = 0.55  # minimum fraction of a garment that later ones leave visible
_LEAST_INSIDE = 0.75  # minimum fraction of a garment inside the image
_TRIES = 8
_PAD = 3  # padding in pixels, so that garments that touch the border of their image have an edge, too
_CLOTH = 20  # grey level above which a pixel belongs to the garment
_HOLLOW = ("bag", "sandal")  # classes with holes through which the background is visible
_VALIDATION_EVERY = 10  # one in this many training images of fashion-mini is used for validation scenes only


@dataclass(frozen=True, eq=False)
class _Garments:
    """Cut-out garments: grey and alpha, uint8 ``(N, side, side)``; xyxy box of each silhouette in pixels, ``(N, 4)``; labels ``(N,)``."""

    grey: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scene:
    """A composed image.

    Args:
        pixels: RGB uint8 ``(128, 128, 3)``.
        masks: visible part of each garment, bool ``(M, 128, 128)``; masks do not overlap.
        labels: class indices, int64 ``(M,)``.
    """

    pixels: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]


def scenes_folder(cache_dir: Path, train_scenes: int = TRAIN_SCENES, seed: int = 0) -> Path:
    """The folder of ``fashion-scenes``, created on first use: ``train/``, ``validation/`` and ``test/``, each with ``00000.png ...`` and
    ``_annotations.coco.json`` (boxes and run-length encoded masks).

    A smaller number of training scenes gives the first scenes of a larger one. There are at most as many validation scenes as training
    scenes, and at most twice as many test scenes. No garment is in two splits.

    Raises:
        DataError: the folder cannot be written.
    """
    counts: dict[SceneSplit, int] = {
        "train": train_scenes,
        "validation": min(VALIDATION_SCENES, train_scenes),
        "test": min(TEST_SCENES, 2 * train_scenes),
    }
    folder = cache_dir / "fashion-scenes" / key_of(_VERSION, fashion_mini_sha256(), counts, seed)[:16]
    if folder.is_dir():
        return folder
    mini = fashion_mini()
    total = sum(counts.values())
    try:
        with whole(folder) as partial, full_disk_reported(folder.parent, lambda: 32_000 * total), Stage("composing scenes", total) as stage:
            for split, count in counts.items():
                (partial / split).mkdir()
                garments = _garments(mini, split)

                def work(i: int, split: SceneSplit = split, garments: _Garments = garments, into: Path = partial) -> list[dict[str, Any]]:
                    scene = _compose(garments, np.random.default_rng((seed, *split.encode(), i)))
                    Image.fromarray(scene.pixels).save(into / split / _file_name(i), compress_level=1)
                    return _annotations(scene)

                annotated: list[list[dict[str, Any]]] = []
                for chunk in in_threads(work, count):
                    annotated += chunk
                    stage.advance(len(chunk))
                (partial / split / "_annotations.coco.json").write_text(json.dumps(_coco(annotated, mini.classes)))
    except OSError as error:
        raise DataError(f"{str(folder)!r} cannot be written: {error.strerror}", "", "set PLANISH_CACHE to a folder that can") from error
    return folder


def compose(split: SceneSplit, count: int, seed: int = 0) -> list[Scene]:
    """Generate the first ``count`` scenes of a split in memory."""
    garments = _garments(fashion_mini(), split)
    return [_compose(garments, np.random.default_rng((seed, *split.encode(), i))) for i in range(count)]


def _file_name(index: int) -> str:
    return f"{index:05d}.png"


def _garments(mini: FashionMini, split: SceneSplit) -> _Garments:
    from scipy import ndimage

    part: Literal["train", "test"] = "test" if split == "test" else "train"
    images, labels = mini.images(part), mini.labels(part)
    if part == "train":
        kept = (np.arange(len(images)) % _VALIDATION_EVERY == 0) == (split == "validation")
        images, labels = images[kept], labels[kept]
    grey = np.pad(images, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    cloth = grey > _CLOTH
    within_one = np.zeros((3, 3, 3), bool)
    within_one[1] = ndimage.generate_binary_structure(2, 1)
    # closes horizontal white stripes (0 here), which would cut a shirt into rings, but not the vertical gaps between legs
    gaps = np.ones((1, 5, 1), bool)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(cloth, gaps) | cloth, within_one)
    hollow = np.isin(labels, [mini.classes.index(name) for name in _HOLLOW])
    cloth = np.where(hollow[:, None, None], cloth, filled)
    columns, rows = np.logical_or.reduce(cloth, 1), np.logical_or.reduce(cloth, 2)
    side = grey.shape[1]
    boxes = [columns.argmax(1), rows.argmax(1), side - columns[:, ::-1].argmax(1), side - rows[:, ::-1].argmax(1)]
    return _Garments(grey, cloth.astype(np.uint8) * 255, np.stack(boxes, 1), labels)


def _compose(garments: _Garments, rng: np.random.Generator) -> Scene:
    canvas = _canvas(garments, rng)
    owner = np.full((SIDE, SIDE), -1, np.int64)  # index of the visible garment at each pixel, -1 for none
    labels: list[int] = []
    areas = seen = np.zeros(0, np.int64)  # pixels of each garment when it was placed, and still visible now
    for _ in range(1 + int(rng.choice(len(_HOW_MANY), p=_HOW_MANY))):
        for _ in range(_TRIES):
            chosen = int(rng.integers(len(garments.labels)))
            size = _SMALLEST * (_LARGEST / _SMALLEST) ** rng.random()
            alpha, colours, (x, y) = _placed(garments, chosen, size, rng)
            window = owner[max(0, y) : max(0, y + alpha.shape[0]), max(0, x) : max(0, x + alpha.shape[1])]
            mask = alpha[max(0, -y) :, max(0, -x) :][: window.shape[0], : window.shape[1]] >= 128
            area = int(mask.sum())
            inside = area / max(1.0, (size / _longer(garments.boxes[chosen])) ** 2 * float((garments.alpha[chosen] > 0).sum()))
            still_seen = seen - np.bincount(window[mask] + 1, minlength=len(labels) + 1)[1:]
            if inside >= _LEAST_INSIDE and np.all(still_seen >= _LEAST_VISIBLE * areas):
                canvas.paste(colours, (x, y), Image.fromarray(alpha))
                window[mask] = len(labels)
                labels.append(int(garments.labels[chosen]))
                seen, areas = np.append(still_seen, area), np.append(areas, area)
                break
    pixels = np.asarray(canvas).astype(np.float32)
    pixels = pixels * rng.uniform(0.75, 1.1) + rng.standard_normal((SIDE, SIDE, 1), np.float32) * rng.uniform(0, 6)
    masks = np.equal(owner, np.arange(len(labels))[:, None, None])
    return Scene(pixels.round().clip(0, 255).astype(np.uint8), masks, np.array(labels, dtype=np.int64))


def _placed(
    garments: _Garments, chosen: int, size: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Image.Image, tuple[int, int]]:
    """A garment scaled, rotated and randomly mirrored: alpha, the coloured image of the same size, and the position of their corner."""
    left, top, right, bottom = garments.boxes[chosen].tolist()
    scale = size / max(right - left, bottom - top)
    angle = math.radians(rng.uniform(-_MOST_TURNED, _MOST_TURNED))
    wide, tall = (right - left) * scale / 2, (bottom - top) * scale / 2
    x = rng.uniform(0.8 * wide, SIDE - 0.8 * wide)  # it may lie partly outside
    y = rng.uniform(0.8 * tall, SIDE - 0.8 * tall)
    mirror = -1 if rng.random() < 0.5 else 1
    # inverse transform: from pixels of the scene to pixels of the garment image
    a, b = mirror * math.cos(angle) / scale, mirror * math.sin(angle) / scale
    c, d = -math.sin(angle) / scale, math.cos(angle) / scale
    reach = math.ceil(math.hypot(wide, tall)) + 2
    corner = int(x) - reach, int(y) - reach
    x, y = x - corner[0], y - corner[1]
    back = (a, b, (left + right) / 2 - a * x - b * y, c, d, (top + bottom) / 2 - c * x - d * y)

    def moved(image: npt.NDArray[np.uint8], how: Image.Resampling) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.fromarray(image).transform((2 * reach + 1, 2 * reach + 1), Image.Transform.AFFINE, back, how))

    soft = moved(garments.alpha[chosen], Image.Resampling.BILINEAR).astype(np.float32)
    alpha = ((soft - 128) * max(1.0, scale) + 128).clip(0, 255).astype(np.uint8)  # the edge is one pixel wide at any size
    light = _colour(rng, 0.75)
    dark = [int(v * rng.uniform(0.05, 0.3)) for v in light]
    return alpha, _tinted(moved(garments.grey[chosen], Image.Resampling.BICUBIC), dark, light), corner


def _canvas(garments: _Garments, rng: np.random.Generator) -> Image.Image:
    """A background of smooth colours with rectangles, lines, ellipses and blurred garments."""
    cells = int(rng.choice([2, 3, 5, 9]))
    base = np.array(_colour(rng, 0.0), dtype=np.float64)
    ground = (base + rng.normal(0, rng.uniform(8, 50), (cells, cells, 3))).clip(0, 255).astype(np.uint8)
    canvas = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 7))):
        x, y, wide, tall = (rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 60), rng.uniform(4, 60))
        box, fill = [x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2], tuple(_colour(rng, 0.0))
        kind = int(rng.integers(4))
        if kind == 0:
            draw.rectangle(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, outline=fill, width=int(rng.integers(1, 4)))
        elif kind == 2:
            draw.ellipse(box, fill=fill)
        else:
            draw.line(rng.uniform(0, SIDE, 4).tolist(), fill=fill, width=int(rng.integers(1, 5)))
    for _ in range(int(rng.integers(0, 3))):
        alpha, colours, corner = _placed(garments, int(rng.integers(len(garments.labels))), rng.uniform(24, _LARGEST), rng)
        blur = ImageFilter.GaussianBlur(rng.uniform(7, 10))  # too strong to recognize the garment
        room = 20  # padding for the blur beyond the edge
        faint = ImageOps.expand(Image.fromarray(alpha), room).filter(blur)
        canvas.paste(ImageOps.expand(colours, room).filter(blur), (corner[0] - room, corner[1] - room), faint)
    return canvas


def _colour(rng: np.random.Generator, least_bright: float) -> list[int]:
    """A random RGB colour whose brightest channel is at least ``least_bright``, on the 0..1 scale."""
    colour = rng.random(3) ** rng.uniform(0.3, 1.5)
    return [int(v) for v in 255 * colour / colour.max() * rng.uniform(least_bright, 1)]


def _tinted(grey: npt.NDArray[np.uint8], dark: Sequence[int], light: Sequence[int]) -> Image.Image:
    steps = np.arange(256)[:, None] / 255
    table = np.rint(np.array(dark) + steps * (np.array(light) - np.array(dark))).astype(np.uint8)
    return Image.fromarray(table[grey])


def _longer(box: npt.NDArray[np.int64]) -> float:
    return float(max(box[2] - box[0], box[3] - box[1]))


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    from pycocotools import mask as run_lengths

    if not len(scene.labels):
        return []
    encoded = run_lengths.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0).astype(np.uint8)))
    return [
        {
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "area": int(area),
            "iscrowd": 0,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
        }
        for label, box, area, rle in zip(scene.labels, run_lengths.toBbox(encoded), run_lengths.area(encoded), encoded, strict=True)
    ]


def _coco(annotated: list[list[dict[str, Any]]], classes: Sequence[str]) -> dict[str, Any]:
    pairs = [(i, annotation) for i, some in enumerate(annotated) for annotation in some]
    return {
        "info": {"description": "fashion-scenes, composed by planish from Fashion-MNIST"},
        "images": [{"id": i, "file_name": _file_name(i), "height": SIDE, "width": SIDE} for i in range(len(annotated))],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(classes)],
        "annotations": [{"id": n + 1, "image_id": i, **annotation} for n, (i, annotation) in enumerate(pairs)],
    }
