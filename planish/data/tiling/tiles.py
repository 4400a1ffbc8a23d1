"""Cutting large images into overlapping tiles, written as an ordinary data set in COCO layout or with mask images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.data.annotations.map_codes import IGNORED
from planish.data.cache.files import full_disk_reported, whole
from planish.data.preprocessing import LARGEST_PIXELS, decode
from planish.data.sources.listing import GivenSplit
from planish.data.splits import cut
from planish.data.targets.objects import Objects
from planish.errors import DataError
from planish.progress import Stage
from planish.split_assignment import ASSIGNED_SPLITS, AssignedSplit, SplitAssignment

ANY_SIDE = 1 << 30  # a decode_side that shrinks no image
BAND_SHARE = 0.15  # fraction of each image that goes to a split without images of its own
_TILED_IMAGES = ".tiled_images.json"  # hidden, so that it is not mistaken for annotations
_FEW_IMAGES = 20  # from this number on, missing splits get whole images; with fewer, each image is cut into bands


@dataclass(frozen=True)
class Tile:
    """A square of an image, in pixels; parts beyond the image are black."""

    left: int
    top: int
    size: int


@dataclass(frozen=True, eq=False)
class LargeMap:
    """The label map of an image that is cut into tiles.

    Args:
        read: returns the map, uint8 ``(h, w)``, 255 on ignored pixels; its resolution may differ from the image.
        height: image height in pixels.
        width: image width in pixels.
    """

    read: Callable[[], npt.NDArray[np.uint8]]
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class LargeImage:
    """An image that is cut into tiles.

    Args:
        key: stable name of the image.
        path: the image file.
        target: its objects or label map; the same type for all images.
        split: the given split; None if the data does not define one.
    """

    key: str
    path: Path
    target: Objects | LargeMap
    split: GivenSplit | None = None


Region = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def tiles_of(width: int, height: int, size: int, overlap: float, region: Region | None = None) -> list[Tile]:
    """Evenly spaced tiles that cover an image or a region of it, row by row; neighbours overlap by at least ``overlap`` of their size.

    Raises:
        DataError: ``size`` is below 1, or ``overlap`` is not in [0, 1).
    """
    if size < 1 or not 0 <= overlap < 1:
        raise DataError(f"tiles of {size} pixels that overlap by {overlap}", "size is at least 1 pixel, overlap at least 0 and below 1")
    left, top, right, bottom = region or (0, 0, width, height)
    return [Tile(x, y, size) for y in _starts(top, bottom, size, overlap) for x in _starts(left, right, size, overlap)]


def cut_pixels(image: npt.NDArray[np.uint8], tile: Tile, region: Region | None = None, outside: int = 0) -> npt.NDArray[np.uint8]:
    """The pixels of a tile of an image ``(H, W, ...)``: uint8 ``(size, size, ...)``, filled with ``outside`` beyond the image or region."""
    right, bottom = (region or (0, 0, image.shape[1], image.shape[0]))[2:]
    pixels = np.full((tile.size, tile.size, *image.shape[2:]), outside, np.uint8)
    part = image[tile.top : min(bottom, tile.top + tile.size), tile.left : min(right, tile.left + tile.size)]
    pixels[: part.shape[0], : part.shape[1]] = part
    return pixels


def cut_objects(objects: Objects, tiles: Sequence[Tile], min_visible: float = 0.4, region: Region | None = None) -> list[Objects]:
    """The objects in each tile.

    An object that is truncated by the edge of a tile is kept if at least the fraction ``min_visible`` of its box, or mask, is inside.
    Otherwise its visible part is kept as a crowd: it is neither trained on nor counted as a false positive when detected.

    Args:
        objects: objects of the whole image.
        tiles: tiles of that image.
        min_visible: 0 keeps every truncated object; above 1, all objects become crowds.
        region: the visible region of the image; None for all of it.
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
        crowd = objects.crowd[rows] | (share < min_visible)
        difficult = None if objects.difficult is None else objects.difficult[rows]
        shown = (inside / tile.size).astype(np.float32)
        cut.append(Objects(shown, objects.labels[rows], tile.size, tile.size, crowd, areas, masks, difficult))
    return cut


def cut_map(target: LargeMap, tiles: Sequence[Tile], region: Region | None = None) -> list[npt.NDArray[np.uint8]]:
    """The label map of each tile, uint8 ``(size, size)``; 255 (ignored) beyond the image or the region."""
    labels = target.read()
    if labels.shape != (target.height, target.width):
        labels = np.asarray(Image.fromarray(labels).resize((target.width, target.height), Image.Resampling.NEAREST))
    return [cut_pixels(labels, tile, region, IGNORED) for tile in tiles]


def tiled_images(folder: Path) -> SplitAssignment | None:
    """The split assignment of the large images that the tiles in a folder were cut from; None if the folder has no tiles."""
    file = folder / _TILED_IMAGES
    return SplitAssignment.load(file) if file.is_file() else None


def regions_of(images: Sequence[LargeImage], hashes: npt.NDArray[np.uint8], seed: int) -> list[list[tuple[GivenSplit, Region]]]:
    """The regions of each image, each with its split.

    Tiles overlap, so they cannot be split at random. Images with a given split other than train are not divided. Validation and test
    splits without images of their own get a band of each image that is in train or has no split, at the end of its longer side; if there
    are many such images, they get whole images instead, chosen by content.

    Args:
        images: the large images.
        hashes: SHA-256 of their files, ``(N, 32)``.
        seed: random seed for splitting whole images.
    """
    given = {image.split for image in images if image.split}
    lacking: list[GivenSplit] = [split for split in ("validation", "test") if split not in given]
    open_images = [i for i, image in enumerate(images) if image.split in (None, "train")]
    whole_ones: dict[int, GivenSplit] = {}
    if lacking and len(open_images) >= _FEW_IMAGES:
        rows, shares = np.array(open_images), {"train": 1.0} | dict.fromkeys(lacking, BAND_SHARE)
        parts = cut(np.zeros(len(rows), np.int64), hashes[rows], rows, shares, seed, ["images"])
        for split in lacking:
            whole_ones |= dict.fromkeys(rows[parts[split]].tolist(), split)
        lacking = []
    answer = []
    for i, image in enumerate(images):
        width, height = image.target.width, image.target.height
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


def write_tiles(
    folder: Path,
    images: Sequence[LargeImage],
    class_names: Sequence[str],
    *,
    size: int,
    overlap: float = 0.25,
    min_visible: float = 0.4,
    seed: int = 0,
) -> int:
    """Write a folder of tiles atomically: ``train/``, ``validation/`` and ``test/``, either in COCO layout, where each image entry also
    has its ``source`` image and its ``left`` and ``top``, or each with ``images/`` and ``masks/``.

    Args:
        folder: output folder; must not exist yet.
        images: the images with their targets; for the splits see ``regions_of``.
        class_names: class names that labels index.
        size: side of a tile in pixels; tiles are later resized to the model's input size.
        overlap: overlap of neighbouring tiles as a fraction of ``size``; should be at least as wide as most objects.
        min_visible: see ``cut_objects``.
        seed: random seed for splits that are not given.

    Returns:
        The number of tiles.

    Raises:
        DataError: an image cannot be read, the disk is full, or ``size`` or ``overlap`` is invalid.
    """
    tiles_of(1, 1, size, overlap)  # raises before anything is read if size or overlap is invalid
    total = sum(image.target.width * image.target.height for image in images)
    with (
        whole(folder) as partial,
        full_disk_reported(folder.parent, lambda: 3 * total / (1 - overlap) ** 2),
        Stage("cutting tiles", len(images)) as stage,
    ):
        written: dict[GivenSplit, list[tuple[dict[str, Any], Objects]]] = {}
        count = 0
        hashes = np.stack([_hash(image) for image in images])
        all_regions = regions_of(images, hashes, seed)
        for number, (image, regions) in enumerate(zip(images, all_regions, strict=True)):
            pixels = _pixels(image)
            for split, region in regions:
                tiles = tiles_of(image.target.width, image.target.height, size, overlap, region)
                names = [f"{number:04d}-{image.path.stem}-x{tile.left}-y{tile.top}.png" for tile in tiles]
                place = partial / split
                if isinstance(image.target, Objects):
                    found = cut_objects(image.target, tiles, min_visible, region)
                    entries = [_entry(name, image, tile) for name, tile in zip(names, tiles, strict=True)]
                    written.setdefault(split, []).extend(zip(entries, found, strict=True))
                else:
                    for name, labels in zip(names, cut_map(image.target, tiles, region), strict=True):
                        _save(labels, place / "masks" / name)
                    place /= "images"
                for name, tile in zip(names, tiles, strict=True):
                    _save(cut_pixels(pixels, tile, region), place / name)
                count += len(tiles)
            stage.advance()
        for split, described in written.items():
            (partial / split / "_annotations.coco.json").write_text(json.dumps(_coco(described, class_names)))
        # an image that was cut into bands has one in train, so it counts as a training image
        of_image: list[AssignedSplit] = [min((split for split, _ in regions), key=ASSIGNED_SPLITS.index) for regions in all_regions]
        SplitAssignment.of(hashes, of_image, seed).save(partial / _TILED_IMAGES)
        if not written:
            (partial / "classes.txt").write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
    return count


def _save(pixels: npt.NDArray[np.uint8], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.squeeze(pixels)).save(file, compress_level=1)


def _entry(name: str, image: LargeImage, tile: Tile) -> dict[str, Any]:
    """The entry of a tile in the COCO list of images."""
    return {"file_name": name, "height": tile.size, "width": tile.size, "source": image.key, "left": tile.left, "top": tile.top}


def _starts(start: int, stop: int, size: int, overlap: float) -> list[int]:
    room = stop - start - size
    if room <= 0:
        return [start]
    count = int(np.ceil(room / max(1.0, size * (1 - overlap)))) + 1
    return [start + round(room * k / (count - 1)) for k in range(count)]


def _hash(image: LargeImage) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(hashlib.sha256(image.path.read_bytes()).digest(), np.uint8)
    except OSError as error:
        raise DataError(f"{image.key!r} cannot be read: {error.strerror}") from error


def _pixels(image: LargeImage) -> npt.NDArray[np.uint8]:
    try:
        pixels = decode(image.path.read_bytes(), 3, ANY_SIDE, LARGEST_PIXELS)
    except (DataError, OSError) as error:
        raise DataError(f"{image.key!r}: {error}") from error
    if pixels.shape[:2] != (image.target.height, image.target.width):
        raise DataError(
            f"{image.key!r} has {pixels.shape[1]} x {pixels.shape[0]} pixels",
            f"its annotations are of {image.target.width} x {image.target.height}",
        )
    grey = (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., :1] if grey else pixels


def _cut_mask(mask: dict[str, Any], low: list[int], high: list[int], tile: Tile) -> tuple[dict[str, Any], list[float], int]:
    """The part of a mask inside a tile, its xyxy box in tile pixels, and its area."""
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
            if found.difficult is not None:
                annotation["ignore"] = int(found.difficult[i])
            if found.masks is not None:
                counts = found.masks[i]["counts"].decode("ascii")
                annotation["segmentation"] = {"size": list(found.masks[i]["size"]), "counts": counts}
            annotations.append(annotation)
    return {
        "images": [{"id": number, **entry} for number, (entry, _) in enumerate(entries)],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(class_names)],
        "annotations": annotations,
    }
