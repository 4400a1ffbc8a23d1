"""Validation of annotations and their conversion to ``Objects``: finite numbers, boxes inside the image, masks of the image's size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation
from planish.data.preprocessing import LARGEST_PIXELS, image_damage_reported, open_header
from planish.data.targets.objects import Objects
from planish.data.targets.run_lengths import lengths_of
from planish.errors import DataError
from planish.files.reading import DAMAGED, describe, open_bounded

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_ORIENTATION = 274
_LONGEST_OUTLINE = 10_000_000  # pixels
_FEW_BOXES, _MANY = 3, 0.25  # the number of boxes, and the share of them beyond the image, from which on it is no coincidence


def size_of(noted: AnnotatedImage) -> tuple[int, int]:
    """Height and width of the image file after applying its EXIF orientation; only the header is read.

    Raises:
        DataError: the file does not exist or is not an image.
    """
    try:
        with image_damage_reported(), open_bounded(noted.path) as stream, open_header(stream, LARGEST_PIXELS) as image:
            width, height = image.size
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED  # Pillow already rotates the size of a TIFF
            return (width, height) if turned else (height, width)
    except OSError as error:
        raise DataError(f"the image {str(noted.path)!r} cannot be opened: {describe(error)}") from error


def are_corners(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], beyond: npt.NDArray[np.bool_]) -> bool:
    """Whether boxes are written as two corners, where a position and an extent are expected.

    Args:
        first: the first two numbers of each box, ``(N, 2)``.
        second: the other two, ``(N, 2)``.
        beyond: whether a box goes beyond its image in x and y if the numbers are read as expected, ``(N, 2)``.
    """
    return len(first) >= _FEW_BOXES and bool((second > first).all()) and float(beyond.any(axis=1).mean()) >= _MANY


def objects_of(noted: AnnotatedImage, height: int, width: int, number: Mapping[str, int], masks: bool) -> tuple[Objects, list[str]]:
    """Convert annotations to ``Objects``, without invalid ones, and return descriptions of those.

    Args:
        noted: the image with the annotations that a reader returned.
        height: height of the image file.
        width: width of the image file.
        number: class index by class name.
        masks: whether to read masks, which every object must then have.
    """
    faults = list(noted.faults)
    kept: list[tuple[ObjectAnnotation, tuple[float, ...], Any]] = []
    # if the annotations give another image size, boxes are in pixels of that size
    down, across = (height / noted.size[0], width / noted.size[1]) if noted.size and all(noted.size) else (1.0, 1.0)
    objects_given = noted.objects
    if abs(down / across - 1) > 0.05:
        faults.append(f"the file has {height} x {width} pixels, its annotations say {noted.size}")
        objects_given = ()
    for place, one in enumerate(objects_given):
        left, top, right, bottom = (v * s for v, s in zip(one.box, (across, down, across, down), strict=True))
        cut = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
        if not all(map(math.isfinite, one.box)):
            faults.append(f"box {place} ({one.label}) has sides that are no numbers")
        elif right - left <= 0 or bottom - top <= 0:
            faults.append(f"box {place} ({one.label}) has no area: {one.box}")
        elif cut[2] <= cut[0] or cut[3] <= cut[1]:
            faults.append(f"box {place} ({one.label}) lies outside the image: {one.box}")
        elif one.label not in number:
            faults.append(f"box {place} is of the class {one.label!r}, which is not known")
        elif masks and one.mask is None:
            faults.append(f"box {place} ({one.label}) has no mask")
        else:
            try:
                lengths = encode_mask(_scaled(one.mask, down, across), height, width) if masks else None
            except DAMAGED as error:
                reason = str(error) if isinstance(error, ValueError) else describe(error)
                faults.append(f"the mask of box {place} ({one.label}) cannot be understood: {reason}")
                continue
            kept.append((one, cut, lengths))
    boxes = np.array([cut for _, cut, _ in kept], np.float64).reshape(-1, 4)
    scale = down * across
    areas = [
        one.area * scale if one.area and one.area * scale <= height * width else (cut[2] - cut[0]) * (cut[3] - cut[1])
        for one, cut, _ in kept
    ]
    difficult = np.array([one.difficult for one, _, _ in kept], bool)
    objects = Objects(
        boxes=(boxes / [width, height, width, height]).astype(np.float32),
        labels=np.array([number[one.label] for one, _, _ in kept], np.int64),
        height=height,
        width=width,
        crowd=np.array([one.crowd for one, _, _ in kept], bool),
        areas=np.array(areas, np.float64),
        masks=tuple(lengths for _, _, lengths in kept) if masks else None,
        difficult=difficult if difficult.any() else None,
    )
    return objects, faults


def encode_mask(mask: Any, height: int, width: int) -> dict[str, Any]:
    """Convert polygons, or compressed or uncompressed run lengths, to COCO compressed run lengths.

    Raises:
        ValueError: the mask is invalid, empty, or of another size than the image.
    """
    from pycocotools import mask as coco

    if isinstance(mask, Sequence) and not isinstance(mask, str):
        if any(not isinstance(polygon, list | tuple) or any(isinstance(v, list | tuple) for v in polygon) for polygon in mask):
            raise ValueError("it is not a list of polygons of numbers: [[x, y, x, y, ...], ...]")
        polygons = [list(map(float, polygon)) for polygon in mask]
        if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
            raise ValueError("a polygon has at least three corners, x and y of each")
        for polygon in polygons:
            across, down = polygon[::2], polygon[1::2]
            if not all(-width <= x <= 2 * width for x in across) or not all(-height <= y <= 2 * height for y in down):  # also false for NaN
                raise ValueError("a polygon has corners that are no numbers, or lie far outside the image")
        length, most = sum(map(_length, polygons)), min(4 * height * width + 1000, _LONGEST_OUTLINE)
        if length > most:  # rasterizing takes memory and time in proportion to its length
            raise ValueError(f"its outline is {length:,.0f} pixels long; in an image of {height} x {width} it is at most {most:,}")
        if not any(map(_encloses_area, polygons)):
            raise ValueError("it is a point or a line, without area")
        return dict(coco.merge(coco.frPyObjects(polygons, height, width)))
    if list(mask["size"]) != [height, width]:
        raise ValueError(f"it has the size {mask['size']}, the image {[height, width]}")
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        text = counts.encode() if isinstance(counts, str) else counts
        counts, packed = lengths_of(text), {"size": [height, width], "counts": text}
    else:
        packed = {}
    if any(not isinstance(n, int) or n < 0 for n in counts) or sum(counts) != height * width:
        raise ValueError(f"its run lengths add up to {sum(counts)}, the image has {height * width} pixels")
    if not any(counts[1::2]):
        raise ValueError("no pixel is in it")
    return packed or dict(coco.frPyObjects(mask, height, width))


def _scaled(mask: Any, down: float, across: float) -> Any:
    """Scale polygons to an image that was resized after annotation; run lengths cannot be scaled and are returned unchanged."""
    if not isinstance(mask, Sequence) or isinstance(mask, str) or down == across == 1:
        return mask
    return [
        [float(value) * side for value, side in zip(polygon, [across, down] * (len(polygon) // 2 + 1), strict=False)] for polygon in mask
    ]


def _encloses_area(polygon: Sequence[float]) -> bool:
    """Whether the corners of a polygon are not all collinear."""
    across, down = np.asarray(polygon[::2]) - polygon[0], np.asarray(polygon[1::2]) - polygon[1]
    far = int(np.argmax(across**2 + down**2))
    return bool((np.abs(across * down[far] - down * across[far]) > 1e-9).any())


def _length(polygon: Sequence[float]) -> float:
    """The length of the outline in pixels, in the maximum norm."""
    corners = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
