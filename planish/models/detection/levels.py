"""Choice of a detector's levels (strides and distance bins) by its input size and the training boxes.

A location of a level predicts the distances from its centre to the four sides of a box, each of at most ``bins - 1`` cells. So some boxes
cannot be predicted exactly by any trained network: boxes that are too large, boxes so small that they contain no centre, and boxes whose
locations are taken by other objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.errors import ModelError

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Sides = Callable[[int], tuple[int, int]]

BINS = 8  # distances of 0 to 7 cells
DETECTIONS = 100  # returned per image
REACHED = 0.9  # a box counts as reachable if an IoU of at least this is possible
_MOST_BINS = 16
_COARSEST = 128
_FINEST = 4  # a level of stride 2 would cost more than the backbone
_TOLERATED = 0.01  # share of unreachable boxes that is tolerated without changing the levels
_MARGIN, _STEP = 1.25, 50
_MOST_DETECTIONS, _MOST_MASKS = 500, 300  # suppression compares all pairs; a mask is a map


@dataclass(frozen=True)
class Levels:
    """The levels of a detector.

    Args:
        strides: strides of the levels, ascending.
        bins: distances of 0 to ``bins - 1`` cells can be predicted.
    """

    strides: tuple[int, ...]
    bins: int = BINS

    def __str__(self) -> str:
        return f"strides {', '.join(map(str, self.strides))}, distances up to {self.bins - 1} cells"


@dataclass(frozen=True)
class TrainingBoxes:
    """Input size and training boxes, by which a detector is designed.

    Args:
        sides: function that returns height and width of the input in pixels, both multiples of its argument.
        boxes: normalized xyxy boxes ``(M, 4)`` of the objects in each training image; empty if unknown.
        detections: number of detections per image; None to choose it by the boxes.
    """

    sides: Sides
    boxes: Sequence[npt.NDArray[np.float32]] = field(default_factory=tuple)
    detections: int | None = None


def nearest_multiples(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The multiples of ``multiple`` that are nearest to a height and a width, at least one of it."""
    high, wide = (max(multiple, round(side / multiple) * multiple) for side in (height, width))
    return high, wide


def reachable_iou(boxes: Sequence[npt.NDArray[np.float32]], height: int, width: int, levels: Levels) -> Floats:
    """The best IoU that a detector can reach for each box if every object of an image has a location of its own.

    An object is assigned to locations whose centre lies in its box, or otherwise to the nearest one (``assignment.assign``). If several
    objects compete for locations, the assignment with the largest sum of IoUs counts; an object without a location reaches 0.

    Args:
        boxes: normalized xyxy boxes ``(M, 4)`` of each image.
        height: height of the input in pixels.
        width: width of the input in pixels.
        levels: levels of the detector.

    Returns:
        The IoUs ``(T,)``, in the order of the boxes.
    """
    pixels = np.concatenate([*(np.asarray(b, np.float64).reshape(-1, 4) for b in boxes), np.zeros((0, 4))]) * [width, height, width, height]
    image = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes])
    places, overlaps = _candidates(pixels, height, width, levels)
    best = overlaps.argmax(1)
    rows = np.arange(len(pixels))
    result = np.asarray(overlaps[rows, best])
    taken = np.stack([image, places[rows, best]], 1)
    _, which, counts = np.unique(taken, axis=0, return_inverse=True, return_counts=True)
    contested = np.unique(image[counts[which.ravel()] > 1])
    starts, ends = np.searchsorted(image, contested), np.searchsorted(image, contested, side="right")
    for start, end in zip(starts, ends, strict=True):
        result[start:end] = _shared_out(places[start:end], overlaps[start:end])
    return result


def choose_levels(strides: tuple[int, ...], training: TrainingBoxes, available: Sequence[int]) -> tuple[Levels, list[str]]:
    """Choose levels that can predict an object as large as the image and nearly all training boxes; also return messages about changes.

    Args:
        strides: default strides.
        training: size of the input, and training boxes.
        available: strides of the backbone's feature maps, which limit the finest level.

    Raises:
        ModelError: no levels reach an object as large as such an image.
    """
    usual = _reaching_whole_image(strides, training.sides)
    notes = []
    if usual != Levels(strides):
        notes.append(f"an object as large as the image could not be met: {usual} instead of {Levels(strides)}")
    chosen, boxes = usual, training.boxes
    if not sum(map(len, boxes)):
        return chosen, notes
    unmet = _unmet(boxes, training.sides, usual)
    if unmet.mean() > _TOLERATED:
        tried = [(float(_unmet(boxes, training.sides, levels).mean()), levels) for levels in _finer(usual, available)]
        least = min([share for share, _ in tried], default=1.0)
        # cheapest first
        for share, levels in tried:
            if share <= max(_TOLERATED, least + _TOLERATED) and share < unmet.mean() - _TOLERATED:
                chosen = levels
                notes.append(
                    f"{unmet.sum():,} of {len(unmet):,} training boxes could be met with an IoU below {REACHED} only: {chosen} "
                    f"instead of {usual}"
                )
                break
    return chosen, [*notes, describe_reach(boxes, *training.sides(max(chosen.strides)), chosen)]


def describe_reach(boxes: Sequence[npt.NDArray[np.float32]], height: int, width: int, levels: Levels) -> str:
    """A one-line summary of the best reachable IoU of the training boxes."""
    reach = reachable_iou(boxes, height, width, levels)
    unmet = reach < REACHED
    best = f"best reachable IoU of {len(reach):,} training boxes at {height} x {width} pixels"
    if not unmet.any():
        return f"{best}: {reach.min():.2f} and more"
    sides = np.concatenate([np.asarray(b, np.float64).reshape(-1, 4) for b in boxes]) * [width, height, width, height]
    median = np.median(np.sqrt((sides[unmet, 2:] - sides[unmet, :2]).prod(1)))
    return (
        f"warning: {best}: below {REACHED} for {unmet.sum():,} ({unmet.mean():.1%}), {reach.min():.2f} at the least; half of these are "
        f"smaller than {median:.0f} pixels: a larger image size, or tiles (planish tile), show them larger"
    )


def require_reach(levels: Levels, height: int, width: int) -> None:
    """Check that the input is not too large for the levels.

    Raises:
        ModelError: an object as large as the image cannot be predicted with the required IoU.
    """
    if (reach := _whole_image_reach(levels, height, width)) < REACHED:
        most = round(2 * (levels.bins - 1) * max(levels.strides) * REACHED**0.5)
        raise ModelError(
            f"images of {height} x {width} pixels for a detector of {levels}",
            f"an object as large as the image is met with an IoU of {reach:.2f} at best, and {REACHED} is needed",
            f"use images of at most about {most} pixels a side, or tiles of large ones (planish tile)",
        )


def levels_in(state: Mapping[str, Any]) -> list[Levels]:
    """Levels that a ``Detector`` with these weights may have, inferred from names and shapes; empty for weights of other networks."""
    heads = [values for name, values in state.items() if name.startswith("heads.") and name.endswith(".boxes.1.weight")]
    return [Levels(tuple(finest * 2**i for i in range(len(heads))), len(heads[0]) // 4) for finest in (4, 8)] if heads else []


def detections_for(boxes: Sequence[npt.NDArray[np.float32]], *, masks: bool) -> tuple[int, list[str]]:
    """The number of detections per image: 25 % more than the largest number of objects in an image, at least 100; and messages about it."""
    most = max(map(len, boxes), default=0)
    if most * _MARGIN <= DETECTIONS:
        return DETECTIONS, []
    wanted, limit = math.ceil(most * _MARGIN / _STEP) * _STEP, _MOST_MASKS if masks else _MOST_DETECTIONS
    notes = [f"training images hold up to {most} objects: the detector returns {min(wanted, limit)} detections per image"]
    if most > limit:
        notes.append(f"warning: an image holds {most} objects, and at most {limit} can be found: cut images into tiles (planish tile)")
    return min(wanted, limit), notes


def _reaching_whole_image(strides: tuple[int, ...], sides: Sides) -> Levels:
    """The given strides, with more bins or coarser levels if an object as large as the image requires them."""
    levels = Levels(strides)
    while True:
        height, width = sides(max(levels.strides))
        for bins in range(BINS, _MOST_BINS + 1):
            if _whole_image_reach(replace(levels, bins=bins), height, width) >= REACHED:
                return replace(levels, bins=bins)
        coarser = 2 * max(levels.strides)
        if coarser > _COARSEST or any(side % coarser for side in sides(coarser)):
            require_reach(replace(levels, bins=_MOST_BINS), height, width)
        levels = replace(levels, strides=(*levels.strides, coarser))


def _whole_image_reach(levels: Levels, height: int, width: int) -> float:
    return float(reachable_iou([np.array([[0, 0, 1, 1]], np.float32)], height, width, levels)[0])


def _finer(levels: Levels, available: Sequence[int]) -> Iterator[Levels]:
    """Levels that suit small and elongated boxes better, the cheapest first."""
    finer = min(levels.strides) // 2
    for strides in [levels.strides, *[(finer, *levels.strides)] * (finer >= _FINEST and finer in available)]:
        for bins in sorted({levels.bins, (levels.bins + _MOST_BINS) // 2, _MOST_BINS}):
            if (strides, bins) != (levels.strides, levels.bins):
                yield Levels(strides, bins)


def _unmet(boxes: Sequence[npt.NDArray[np.float32]], sides: Sides, levels: Levels) -> npt.NDArray[np.bool_]:
    return reachable_iou(boxes, *sides(max(levels.strides)), levels) < REACHED


def _candidates(boxes: Floats, height: int, width: int, levels: Levels) -> tuple[Numbers, Floats]:
    """Candidate locations of each box (nine around its centre on each level) and the reachable IoUs, ``(T, K)``; -1 where not allowed."""
    places, overlaps, distances, first = [], [], [], 0
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = np.stack(np.meshgrid((0, -1, 1), (0, -1, 1), indexing="ij"), -1).reshape(1, 9, 2)
    for stride in levels.strides:
        count = np.array([math.ceil(width / stride), math.ceil(height / stride)])
        cell = np.array([width, height]) / count
        nearest = np.clip((middle / cell).astype(np.int64), 0, count - 1)[:, None]
        column_row = nearest + steps
        centre = (column_row + 0.5) * cell
        reach = (levels.bins - 1) * cell
        low, high = boxes[:, None, :2], boxes[:, None, 2:]
        there = np.concatenate([centre - np.clip(centre - low, 0, reach), centre + np.clip(high - centre, 0, reach)], 2)
        valid = ((column_row >= 0) & (column_row < count)).all(2)
        inside = ((centre > low) & (centre < high)).all(2) & valid
        places.append(first + column_row[..., 1] * count[0] + column_row[..., 0])
        overlaps.append(np.where(inside, _iou(there, boxes[:, None]), -1.0))
        apart = np.linalg.norm((centre[:, 0] - middle) / [width, height], axis=1)
        distances.append((apart, _iou(there[:, 0], boxes)))
        first += int(count.prod())
    found = np.concatenate(overlaps, 1)
    # a box that contains no centre is assigned to the nearest location
    lost = np.flatnonzero((found < 0).all(1))
    level = np.stack([apart for apart, _ in distances], 1)[lost].argmin(1)
    found[lost, 9 * level] = np.stack([overlap for _, overlap in distances], 1)[lost, level]
    return np.concatenate(places, 1), found


def _shared_out(places: Numbers, overlaps: Floats) -> Floats:
    """The IoU of each object of one image ``(M,)`` in the one-to-one assignment to locations with the largest sum of IoUs."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    objects, column = np.nonzero(overlaps >= 0)
    known, place = np.unique(places[objects, column], return_inverse=True)
    count = len(places)
    # each object has an extra column of its own that stands for no location; sparse matrices drop entries of 0, hence the small offsets
    values = np.concatenate([overlaps[objects, column] + 1e-6, np.full(count, 1e-9)])
    rows, columns = np.concatenate([objects, np.arange(count)]), np.concatenate([place.ravel(), len(known) + np.arange(count)])
    matrix = coo_array((values, (rows, columns)), shape=(count, len(known) + count)).tocsr()
    _, matched = min_weight_full_bipartite_matching(matrix, maximize=True)
    return np.asarray(np.where(matched < len(known), matrix[np.arange(count), matched] - 1e-6, 0.0))


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU of boxes that broadcast against one another."""
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    each = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1) for box in (a, b)]
    return np.asarray(shared / np.maximum(each[0] + each[1] - shared, 1e-12))
