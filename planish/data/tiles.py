"""Large images as overlapping tiles: files of their own, in COCO layout, so that nothing that trains need know of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.data.cache import content_hashes, disk_full_told, key_of, whole
from planish.data.listing import GivenSplit
from planish.data.objects import Objects
from planish.data.preprocessing import decode
from planish.errors import DataError
from planish.progress import Stage

_VERSION = 1  # raise when the same images give other tiles
ANY_SIDE = 1 << 30  # nothing is shrunk
MAX_PIXELS = 1 << 30
BAND_SHARE = 0.15  # of an image, for a split that has no images of its own
_FEW_IMAGES = 20  # without given splits, so many are split as wholes; of fewer each is cut into bands


@dataclass(frozen=True)
class Tile:
    """A square of an image, in pixels; where it reaches beyond the image, it is black."""

    left: int
    top: int
    size: int


@dataclass(frozen=True, eq=False)
class LargeImage:
    """One image to be cut up.

    Args:
        key: its stable name.
        path: the file.
        objects: what is in it.
        split: where it belongs; None where the data does not say.
    """

    key: str
    path: Path
    objects: Objects
    split: GivenSplit | None = None


Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def tiles_of(width: int, height: int, size: int, overlap: float, region: Region | None = None) -> list[Tile]:
    """Tiles that cover an image, or a region of it, evenly spaced, row by row; neighbours overlap by at least the share ``overlap``.

    Raises:
        DataError: no size, or an overlap that is not below 1.
    """
    if size < 1 or not 0 <= overlap < 1:
        raise DataError(f"tiles of {size} pixels that overlap by {overlap}", "size is at least 1 pixel, overlap at least 0 and below 1")
    left, top, right, bottom = region or (0, 0, width, height)
    return [Tile(x, y, size) for y in _starts(top, bottom, size, overlap) for x in _starts(left, right, size, overlap)]


def cut_pixels(image: npt.NDArray[np.uint8], tile: Tile, region: Region | None = None) -> npt.NDArray[np.uint8]:
    """A tile of an image ``(H, W, C)``: uint8 ``(size, size, C)``, black outside the image or the region."""
    right, bottom = (region or (0, 0, image.shape[1], image.shape[0]))[2:]
    pixels = np.zeros((tile.size, tile.size, image.shape[2]), np.uint8)
    part = image[tile.top : min(bottom, tile.top + tile.size), tile.left : min(right, tile.left + tile.size)]
    pixels[: part.shape[0], : part.shape[1]] = part
    return pixels


def cut_objects(objects: Objects, tiles: Sequence[Tile], least_visible: float = 0.4, region: Region | None = None) -> list[Objects]:
    """What is in each tile.

    An object cut by a tile's edge is kept where at least the share ``least_visible`` of its box, or mask, is inside. What is left of the
    others stays in the list as a crowd: it is not to be learned, and to find it is no mistake.

    Args:
        objects: of the whole image.
        tiles: of that image.
        least_visible: 0 keeps every rest, above 1 none.
        region: what of the image is shown; None for all of it.
    """
    scale = np.array([objects.width, objects.height] * 2, dtype=np.float64)
    boxes = objects.boxes * scale
    edge = region or (0, 0, objects.width, objects.height)
    full = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    cut: list[Objects] = []
    for tile in tiles:
        corner = np.array([tile.left, tile.top] * 2)
        low, high = np.maximum(corner[:2], edge[:2]), np.minimum(corner[:2] + tile.size, edge[2:])
        inside = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], 1)
        sides = np.maximum(inside[:, 2:] - inside[:, :2], 0)
        share = sides.prod(1) / full
        rows = np.flatnonzero((sides >= 1).all(1) | (share > 0.999))
        inside, share = inside[rows] - corner, share[rows]
        areas, masks = objects.areas[rows] * share, None
        if objects.masks is not None:
            found = [_cut_mask(objects.masks[i], low.tolist(), high.tolist(), tile) for i in rows]
            left_over = np.array([area for _, _, area in found], dtype=np.float64)
            before = np.array([_area(objects.masks[i]) for i in rows])
            seen = np.flatnonzero(left_over > 0)
            rows, share, areas = rows[seen], left_over[seen] / np.maximum(before[seen], 1), left_over[seen]
            inside = np.array([box for _, box, area in found if area > 0]).reshape(-1, 4)
            masks = tuple(mask for mask, _, area in found if area > 0)
        crowd = objects.crowd[rows] | (share < least_visible)
        cut.append(Objects((inside / tile.size).astype(np.float32), objects.labels[rows], tile.size, tile.size, crowd, areas, masks))
    return cut


def regions_of(images: Sequence[LargeImage], seed: int) -> list[list[tuple[GivenSplit, Region]]]:
    """Which part of each image belongs to which split.

    Tiles overlap, so they cannot be shuffled into splits. An image with a split is whole. Splits without images of their own get a band
    of each training image (or of each image that has no split): the last shares along the longer side; or, of many images, whole ones.
    """
    given = {image.split for image in images if image.split}
    lacking: list[GivenSplit] = [split for split in ("validation", "test") if split not in given]
    open_images = [i for i, image in enumerate(images) if image.split in (None, "train")]
    whole_ones: dict[int, GivenSplit] = {}
    if lacking and len(open_images) >= _FEW_IMAGES:
        order, count = np.random.default_rng(seed).permutation(open_images), max(1, round(BAND_SHARE * len(open_images)))
        for k, split in enumerate(lacking):
            whole_ones |= dict.fromkeys(order[k * count : (k + 1) * count].tolist(), split)
        lacking = []
    answer = []
    for i, image in enumerate(images):
        width, height = image.objects.width, image.objects.height
        if image.split not in (None, "train") or not lacking:
            answer.append([(whole_ones.get(i, image.split or "train"), (0, 0, width, height))])
            continue
        side = max(width, height)
        ends = [0, *(round(side * (1 - BAND_SHARE * k)) for k in range(len(lacking), -1, -1))]
        answer.append(
            [
                (split, (start, 0, stop, height) if width >= height else (0, start, width, stop))
                for split, start, stop in zip(("train", *lacking), ends[:-1], ends[1:], strict=True)
            ]
        )
    return answer


def tile_folder(
    images: Sequence[LargeImage],
    class_names: Sequence[str],
    cache_dir: Path,
    *,
    size: int,
    overlap: float = 0.25,
    least_visible: float = 0.4,
    seed: int = 0,
) -> Path:
    """The folder of the tiles of these images, made on first use: ``train/``, ``validation/`` and ``test/`` in COCO layout.

    In ``_annotations.coco.json`` each image also says of which ``source`` it is the tile, and where its ``left`` and ``top`` are.

    Args:
        images: with their objects; for the splits see ``regions_of``.
        class_names: what the labels stand for.
        cache_dir: the cache folder.
        size: of a tile in pixels; it is what a model is fed, squashed to its input size.
        overlap: share of a tile that its neighbour shows as well; at least as wide as most objects.
        least_visible: see ``cut_objects``.
        seed: for images without a split.

    Raises:
        DataError: an image cannot be read, the disk is full, or size and overlap make no tiles.
    """
    tiles_of(1, 1, size, overlap)  # says what is wrong with them before anything is read
    hashes, bad = content_hashes([image.path for image in images], cache_dir)
    for i, reason in bad.items():
        raise DataError(f"{images[i].key!r} {reason}")
    described = [(image.key, image.split, _described(image.objects)) for image in images]
    key = key_of(_VERSION, hashes, repr(described), tuple(class_names), size, overlap, least_visible, seed)
    folder = cache_dir / "tiles" / key
    if folder.is_dir():
        return folder
    write_tiles(folder, images, class_names, size=size, overlap=overlap, least_visible=least_visible, seed=seed)
    return folder


def write_tiles(
    folder: Path,
    images: Sequence[LargeImage],
    class_names: Sequence[str],
    *,
    size: int,
    overlap: float = 0.25,
    least_visible: float = 0.4,
    seed: int = 0,
) -> int:
    """Write the folder that ``tile_folder`` finds, or another: whole or not at all. Returns how many tiles there are; raises likewise."""
    tiles_of(1, 1, size, overlap)
    total = sum(image.objects.width * image.objects.height for image in images)
    with (
        whole(folder) as partial,
        disk_full_told(folder.parent, lambda: 3 * total / (1 - overlap) ** 2),
        Stage("cutting tiles", len(images)) as stage,
    ):
        written: dict[GivenSplit, list[tuple[dict[str, Any], Objects]]] = {}
        for number, (image, regions) in enumerate(zip(images, regions_of(images, seed), strict=True)):
            pixels = _pixels(image)
            for split, region in regions:
                (partial / split).mkdir(exist_ok=True)
                tiles = tiles_of(image.objects.width, image.objects.height, size, overlap, region)
                for tile, found in zip(tiles, cut_objects(image.objects, tiles, least_visible, region), strict=True):
                    name = f"{number:04d}-{image.path.stem}-x{tile.left}-y{tile.top}.png"
                    Image.fromarray(np.squeeze(cut_pixels(pixels, tile, region))).save(partial / split / name, compress_level=1)
                    entry = {"file_name": name, "height": size, "width": size, "source": image.key, "left": tile.left, "top": tile.top}
                    written.setdefault(split, []).append((entry, found))
            stage.advance()
        for split, entries in written.items():
            (partial / split / "_annotations.coco.json").write_text(json.dumps(_coco(entries, class_names)))
    return sum(map(len, written.values()))


def _starts(start: int, stop: int, size: int, overlap: float) -> list[int]:
    room = stop - start - size
    if room <= 0:
        return [start]
    count = int(np.ceil(room / max(1.0, size * (1 - overlap)))) + 1
    return [start + round(room * k / (count - 1)) for k in range(count)]


def _pixels(image: LargeImage) -> npt.NDArray[np.uint8]:
    try:
        pixels = decode(image.path.read_bytes(), 3, ANY_SIDE, MAX_PIXELS)
    except (DataError, OSError) as error:
        raise DataError(f"{image.key!r}: {error}") from error
    if pixels.shape[:2] != (image.objects.height, image.objects.width):
        raise DataError(
            f"{image.key!r} has {pixels.shape[1]} x {pixels.shape[0]} pixels",
            f"its annotations are of {image.objects.width} x {image.objects.height}",
        )
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., :1] if grey else pixels


def _cut_mask(mask: dict[str, Any], low: list[int], high: list[int], tile: Tile) -> tuple[dict[str, Any], list[float], int]:
    """The mask in the tile, its box there in pixels, its area."""
    from pycocotools import mask as run_lengths

    inside = np.zeros((tile.size, tile.size), np.uint8, order="F")
    part = run_lengths.decode(mask)[low[1] : high[1], low[0] : high[0]]
    top, left = low[1] - tile.top, low[0] - tile.left
    inside[top : top + part.shape[0], left : left + part.shape[1]] = part
    encoded = run_lengths.encode(inside)
    x, y, wide, tall = run_lengths.toBbox(encoded).tolist()
    return encoded, [x, y, x + wide, y + tall], int(run_lengths.area(encoded))


def _area(mask: dict[str, Any]) -> int:
    from pycocotools import mask as run_lengths

    return int(run_lengths.area(mask))


def _described(objects: Objects) -> tuple[object, ...]:
    arrays = (objects.boxes, objects.labels, objects.crowd, objects.areas)
    return objects.width, objects.height, key_of(*arrays, repr(objects.masks))


def _coco(entries: Sequence[tuple[dict[str, Any], Objects]], class_names: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, (_, found) in enumerate(entries):
        for i, (left, top, right, bottom) in enumerate((found.boxes.astype(np.float64) * found.width).round(3).tolist()):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(found.labels[i]) + 1,
                "bbox": [left, top, round(right - left, 3), round(bottom - top, 3)],
                "area": float(found.areas[i]),
                "iscrowd": int(found.crowd[i]),
            }
            if found.masks is not None:
                counts = found.masks[i]["counts"].decode("ascii")
                annotation["segmentation"] = {"size": list(found.masks[i]["size"]), "counts": counts}
            annotations.append(annotation)
    return {
        "images": [{"id": number, **entry} for number, (entry, _) in enumerate(entries)],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(class_names)],
        "annotations": annotations,
    }
