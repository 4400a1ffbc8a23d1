"""Tiled inference on large images: predictions on overlapping tiles, merged. Depends on NumPy and Pillow only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.data.preprocessing import resize
from planish.data.tiling.tiles import Tile, cut_pixels, tiles_of
from planish.errors import ModelError
from planish.progress import note

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Pixels, Predictor, Preprocessing

_TOUCHES = 0.01  # fraction of a tile; a box this close to the edge of its tile may be truncated
_CONFIDENT = 0.3  # score; if all detections of a tile are above it, the tile may have more objects than the model can return
_COVERED = 0.6  # a truncated box is a duplicate if a box of another tile covers more than this fraction of it
Floats = npt.NDArray[np.float32]


def predict_tiled(
    predictor: Predictor,
    image: Pixels,
    spec: InputSpec,
    preprocessing: Preprocessing,
    *,
    size: int,
    overlap: float = 0.25,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda done: None,
) -> Outputs:
    """Predict on a large image tile by tile, and merge the predictions.

    Args:
        predictor: maps uint8 pixels ``(N, spec.height, spec.width, C)`` to ``boxes``, ``scores``, ``labels`` and optionally ``masks``, or
            to ``classes`` and ``confidence``.
        image: uint8 ``(H, W, C)`` at full size.
        spec: input of the model.
        preprocessing: how tiles are resized to the input size.
        size: side of a tile in pixels; should match the scale of the training images.
        overlap: overlap of neighbouring tiles as a fraction of ``size``; wider objects may be detected as two halves.
        batch_size: number of tiles per batch.
        advance: called after each batch with its number of tiles.

    Returns:
        The same outputs with N = 1 for the whole image, with all of its detections; ``masks`` and ``classes`` have the model's resolution
        per tile.

    Raises:
        ModelError: the model's predictions are for whole images only (neither boxes nor label maps).
    """
    height, width = image.shape[:2]
    tiles = tiles_of(width, height, size, overlap)
    answers: list[Outputs] = []
    for start in range(0, len(tiles), batch_size):
        some = tiles[start : start + batch_size]
        answers.append(predictor(np.stack([resize(cut_pixels(image, tile), spec, preprocessing) for tile in some])))
        advance(len(some))
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    if "boxes" not in outputs and "classes" not in outputs:
        raise ModelError(
            f"a model that returns {', '.join(outputs)}", "what is said of tiles is put together for boxes and label maps only"
        )
    if "classes" in outputs:
        return _stitched(outputs, tiles, height, width)
    if full := int((outputs["scores"] > _CONFIDENT).all(1).sum()):
        most = outputs["scores"].shape[1]
        note(f"warning: in {full:,} of {len(tiles):,} tiles all {most} detections of the model are confident: smaller tiles show more")
    return merged(outputs, tiles, height, width)


def merged(outputs: Outputs, tiles: Sequence[Tile], height: int, width: int, *, iou: float = 0.5) -> Outputs:
    """Merge the detections on tiles to detections on the whole image.

    A truncated box (one that ends at the edge of its tile, inside the image) is suppressed by a complete box of another tile that covers
    most of it, whatever the scores. Otherwise the box with the highest score is kept, as in non-maximum suppression.

    Args:
        outputs: ``boxes (T, K, 4)``, ``scores (T, K)``, ``labels (T, K)`` and optionally ``masks (T, K, h, w)`` of each tile.
        tiles: the tiles of the image.
        height: image height in pixels.
        width: image width in pixels.
        iou: boxes of the same class with a higher IoU are duplicates.

    Returns:
        The same outputs with N = 1 and K the number of kept detections, by descending score; boxes are normalized to the image.
    """
    number, row = np.nonzero(outputs["scores"] > 0)
    boxes, scores, labels = (outputs[name][number, row] for name in ("boxes", "scores", "labels"))
    corners = np.array([[t.left, t.top, t.left, t.top] for t in tiles], dtype=np.float64).reshape(-1, 4)[number]
    sizes = np.array([t.size for t in tiles], dtype=np.float64)[number, None]
    placed = np.clip(boxes * sizes + corners, 0, [width, height] * 2)
    cut = _cut_off(boxes, corners, sizes, height, width)
    keep = kept(placed, scores, labels, cut, number, iou)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    answer: dict[str, Any] = {
        "boxes": (placed[keep] / ([width, height] * 2)).astype(np.float32)[None],
        "scores": scores[keep].astype(np.float32)[None],
        "labels": labels[keep].astype(np.int64)[None],
    }
    if "masks" in outputs:
        whole = np.zeros((len(keep), *_canvas(outputs["masks"].shape[2:], tiles, height, width)), np.float32)
        for i, k in enumerate(keep):
            _paste(whole[i], outputs["masks"][number[k], row[k]], tiles[number[k]])
        answer["masks"] = whole[None]
    return answer


def kept(
    boxes: npt.NDArray[np.float64],
    scores: Floats,
    labels: npt.NDArray[np.int64],
    cut: npt.NDArray[np.bool_],
    tile: npt.NDArray[np.int64],
    iou: float,
) -> npt.NDArray[np.int64]:
    """Class-wise non-maximum suppression across tiles.

    Args:
        boxes: xyxy boxes in image pixels, ``(M, 4)``.
        scores: ``(M,)``.
        labels: ``(M,)``.
        cut: whether each box is truncated: it ends at the edge of its tile, inside the image, ``(M,)``.
        tile: tile index of each box, ``(M,)``.
        iou: see ``merged``.

    Returns:
        Indices of the kept boxes: complete ones first, then truncated ones, each by descending score.
    """
    order = np.lexsort((-scores, cut))
    boxes, labels, cut, tile = boxes[order], labels[order], cut[order], tile[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        later = i + 1 + np.flatnonzero(alive[i + 1 :] & (labels[i + 1 :] == labels[i]))
        sides = np.minimum(boxes[i, 2:], boxes[later, 2:]) - np.maximum(boxes[i, :2], boxes[later, :2])
        shared = np.maximum(sides, 0).prod(1)
        same = shared > iou * np.maximum(area[i] + area[later] - shared, 1e-9)
        same |= cut[later] & (tile[later] != tile[i]) & (shared > _COVERED * np.maximum(area[later], 1e-9))
        alive[later[same]] = False
    return order[alive]


def _cut_off(
    boxes: Floats, corners: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[np.bool_]:
    before = (boxes[:, :2] < _TOUCHES) & (corners[:, :2] > 0)
    after = (boxes[:, 2:] > 1 - _TOUCHES) & (corners[:, 2:] + sizes < [width, height])
    return np.asarray((before | after).any(1))


def _canvas(shape: tuple[int, ...], tiles: Sequence[Tile], height: int, width: int) -> tuple[int, int]:
    """The height and width of a map of the whole image at the resolution of the maps of its tiles."""
    size = tiles[0].size
    return max(1, _whole(height * shape[0] / size)), max(1, _whole(width * shape[1] / size))


def _whole(value: float) -> int:
    """Round half up, so that adding a whole number before or after rounding is the same; ``round`` would leave a gap beside some tiles."""
    return math.floor(value + 0.5)


def _paste(whole: Floats, part: Floats, tile: Tile) -> None:
    top, left = _whole(tile.top * part.shape[0] / tile.size), _whole(tile.left * part.shape[1] / tile.size)
    room = whole[top : top + part.shape[0], left : left + part.shape[1]]
    room[:] = part[: room.shape[0], : room.shape[1]]


def _stitched(outputs: Outputs, tiles: Sequence[Tile], height: int, width: int) -> Outputs:
    """Stitch the label maps of tiles: each pixel is taken from the tile in which it is farthest from the edge."""
    shape = outputs["classes"].shape[1:]
    whole = {name: np.zeros(_canvas(shape, tiles, height, width), outputs[name].dtype) for name in ("classes", "confidence")}
    rows, columns = (np.minimum(np.arange(n) + 1, n - np.arange(n)) / n for n in shape)
    inside = np.minimum(rows[:, None], columns).astype(np.float32)
    best = np.zeros(whole["classes"].shape, np.float32)
    for i, tile in enumerate(tiles):
        top, left = _whole(tile.top * shape[0] / tile.size), _whole(tile.left * shape[1] / tile.size)
        seen = best[top : top + shape[0], left : left + shape[1]]
        better = inside[: seen.shape[0], : seen.shape[1]] > seen
        for name, all_of_it in whole.items():
            part = outputs[name][i, : seen.shape[0], : seen.shape[1]]
            all_of_it[top : top + shape[0], left : left + shape[1]][better] = part[better]
        seen[better] = inside[: seen.shape[0], : seen.shape[1]][better]
    return {name: all_of_it[None] for name, all_of_it in whole.items()}
