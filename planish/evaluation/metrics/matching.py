"""Matching of detections with objects, per image and class, identical to COCO's own evaluation.

T.-Y. Lin et al., Microsoft COCO: common objects in context, 2014 (arXiv:1405.0312), and its reference code, ``pycocotools.cocoeval``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.data.targets.objects import Objects

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU thresholds of COCO
COCO_MAX_DETECTIONS = 100  # per image and class, the most confident ones
RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # of areas, in pixels


_REMEMBERED = 4


@dataclass(frozen=True)
class Matches:
    """Matches between the detections ``(D,)`` and the objects ``(G,)`` of all images and classes, at T IoU thresholds.

    Args:
        image: image index of each detection.
        label: class of each detection.
        score: confidence of each detection.
        found: whether each detection matches an object, at each IoU threshold ``(T, D)``.
        ignored: whether each detection counts as neither right nor wrong ``(T, D)``: it matches an ignored object, or it matches none and
            its size is out of range.
        object_image: image index of each object that counts.
        object_label: class of each object that counts.
        images: number of images.
        place: row of each detection in ``ImageOverlaps.overlap`` of its image.
        partner: index of the matched object in ``object_image`` ``(T, D)``; -1 if there is none that counts.
    """

    image: Numbers
    label: Numbers
    score: Floats
    found: Flags
    ignored: Flags
    object_image: Numbers
    object_label: Numbers
    images: int
    place: Numbers
    partner: Numbers


@dataclass(frozen=True)
class ImageOverlaps:
    """The detections and objects of one image with their IoUs, from which all matches are computed.

    Args:
        objects: objects of the image.
        score: confidence of each detection, in descending order ``(D,)``.
        label: class of each detection.
        area: area of each detection in pixels.
        overlap: IoU of each detection with each object, of any class ``(D, M)``.
    """

    objects: Objects
    score: Floats
    label: Numbers
    area: Floats
    overlap: Floats


_recent: dict[str, tuple[tuple[Objects, ...], list[ImageOverlaps]]] = {}  # cache by hash of the outputs, most recently used last


def detections(outputs: Outputs, index: int, objects: Objects) -> tuple[Floats, Numbers, Floats]:
    """Return scores, labels and boxes in pixels ``(left, top, width, height)`` of the detections in an image, the most confident first."""
    scores = np.asarray(outputs["scores"][index], np.float64)
    order = np.argsort(-scores, kind="mergesort")
    order = order[scores[order] > 0]
    sides = np.array([objects.width, objects.height, objects.width, objects.height], np.float64)
    boxes = np.asarray(outputs["boxes"][index], np.float64)[order] * sides
    boxes[:, 2:] -= boxes[:, :2]
    return scores[order], np.asarray(outputs["labels"][index], np.int64)[order], boxes


def box_iou(a: Floats, b: Floats, crowd: Flags) -> Floats:
    """Return the IoU ``(D, G)`` of boxes ``(left, top, width, height)``; for crowds, the intersection over the detection's own area."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.prod(np.clip(right_bottom - left_top, 0, None), axis=2)
    own, others = np.prod(a[:, 2:], axis=1)[:, None], np.prod(b[:, 2:], axis=1)[None]
    union = np.where(crowd[None], own, own + others - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def encode_probabilities(masks: Any, height: int, width: int) -> list[dict[str, Any]]:
    """Convert mask probabilities ``(M, h, w)`` to run-length encoded masks of the image's size: bilinear resize, then threshold 0.5."""
    from pycocotools import mask as coco

    masks = np.ascontiguousarray(masks, np.float32)
    count, rows, columns = masks.shape
    painted = np.zeros((height, width, count), np.uint8, order="F")
    sure = masks > 0.5
    by_row, by_column = sure.any(2), sure.any(1)
    for k in np.flatnonzero(by_row.any(1)):
        # the mask can only be near cells above 0.5, so the rest of the image is not computed
        top, bottom = _reach(by_row[k], rows, height)
        left, right = _reach(by_column[k], columns, width)
        part = (left * columns / width, top * rows / height, right * columns / width, bottom * rows / height)
        enlarged = Image.fromarray(masks[k]).resize((right - left, bottom - top), Image.Resampling.BILINEAR, part)
        painted[top:bottom, left:right, k] = np.asarray(enlarged) > 0.5
    return list(coco.encode(painted))


def _reach(there: Flags, cells: int, pixels: int) -> tuple[int, int]:
    """Return the range of pixels that the given cells and their neighbours can affect."""
    found = np.flatnonzero(there)
    beside = max(1.0, cells / pixels)
    first, last = (found[0] - beside) * pixels / cells, (found[-1] + 1 + beside) * pixels / cells
    return max(0, int(np.floor(first))), min(pixels, int(np.ceil(last)))


def compute_overlaps(outputs: Outputs, targets: Sequence[Objects], *, masks: bool = False) -> list[ImageOverlaps]:
    """Compute the IoUs in all images. The last few results are cached, since metrics, scores and errors use the same and masks take long.

    Args:
        outputs: normalized ``boxes`` ``(N, K, 4)``, ``scores`` and ``labels`` ``(N, K)``, for masks ``masks`` ``(N, K, h, w)``.
        targets: objects of each image ``(N,)``.
        masks: use the IoU of masks instead of boxes.
    """
    digest = hashlib.blake2b(bytes(masks))
    for name in ("scores", "labels", "boxes", *["masks"] * masks):
        for values in outputs[name]:  # one array, or one per image
            digest.update(np.ascontiguousarray(values).data)
    key = digest.hexdigest()
    known, seen = _recent.pop(key, ((), []))
    if not (len(known) == len(targets) and all(a is b for a, b in zip(known, targets, strict=True))):
        seen = [_seen(outputs, index, objects, masks) for index, objects in enumerate(targets)]
    _recent[key] = tuple(targets), seen
    while len(_recent) > _REMEMBERED:
        _recent.pop(next(iter(_recent)))
    return seen


def _seen(outputs: Outputs, index: int, objects: Objects, masks: bool) -> ImageOverlaps:
    scores, labels, boxes = detections(outputs, index, objects)
    if masks:
        order = np.argsort(-np.asarray(outputs["scores"][index], np.float64), kind="mergesort")[: len(scores)]
        lengths = encode_probabilities(outputs["masks"][index][order], objects.height, objects.width)
        return ImageOverlaps(objects, scores, labels, *_mask_overlap(lengths, objects))
    sides = np.array([objects.width, objects.height, objects.width, objects.height], np.float64)
    theirs = objects.boxes.astype(np.float64) * sides
    theirs[:, 2:] -= theirs[:, :2]
    return ImageOverlaps(objects, scores, labels, np.prod(boxes[:, 2:], axis=1), box_iou(boxes, theirs, objects.crowd))


def match(images: Sequence[ImageOverlaps], size: str = "all", *, uncapped: bool = False) -> Matches:
    """Match detections with objects in all images.

    Args:
        images: detections and objects from ``compute_overlaps``.
        size: size range of the objects that count, see ``RANGES``.
        uncapped: match all detections instead of COCO's 100 per image and class.
    """
    most = None if uncapped else COCO_MAX_DETECTIONS
    none = np.zeros((len(THRESHOLDS), 0))
    parts: dict[str, list[Any]] = {name: [np.zeros(0)] for name in ("image", "label", "score", "place", "object_image", "object_label")}
    parts |= {name: [none] for name in ("found", "ignored", "partner")}
    low, high = RANGES[size]
    so_far = 0
    for index, image in enumerate(images):
        objects = image.objects
        ignored = objects.ignored
        outside = ignored | (objects.areas < low) | (objects.areas > high)
        for label in np.union1d(image.label, objects.labels):
            rows, of_class = np.flatnonzero(image.label == label)[:most], np.flatnonzero(objects.labels == label)
            of_class = of_class[np.argsort(outside[of_class], kind="mergesort")]
            hit, skip, partner = _match(image.overlap[rows][:, of_class], outside[of_class], ignored[of_class])
            areas = image.area[rows]
            counted = int((~outside[of_class]).sum())
            found = {
                "image": np.full(len(rows), index), "label": np.full(len(rows), label), "score": image.score[rows], "place": rows,
                "found": hit, "ignored": skip | ~hit & ((areas < low) | (areas > high))[None],
                "partner": np.where((partner >= 0) & (partner < counted), so_far + partner, -1),
                "object_image": np.full(counted, index), "object_label": np.full(counted, label),
            }  # fmt: skip
            so_far += counted
            for name, values in found.items():
                parts[name].append(values)
    kinds = {"score": np.float64, "found": np.bool_, "ignored": np.bool_}
    joined: dict[str, Any] = {name: np.concatenate(values, axis=-1).astype(kinds.get(name, np.int64)) for name, values in parts.items()}
    return Matches(**joined, images=len(images))


def _match(overlap: Floats, outside: Flags, ignored: Flags) -> tuple[Flags, Flags, Numbers]:
    """Return for each detection whether it matches an object, whether that object does not count, and its index: ``(T, D)`` each.

    Args:
        overlap: IoU ``(D, G)``, the most confident detection first, objects that do not count last.
        outside: whether each object does not count ``(G,)``.
        ignored: which of these any number of detections may match: COCO's crowds, and VOC's difficult objects.
    """
    count, objects = overlap.shape
    found, skipped = np.zeros((len(THRESHOLDS), count), bool), np.zeros((len(THRESHOLDS), count), bool)
    partner = np.full((len(THRESHOLDS), count), -1)
    if not objects:
        return found, skipped, partner
    free = np.ones((len(THRESHOLDS), objects), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    every = np.arange(len(THRESHOLDS))
    for row in np.flatnonzero(overlap.max(axis=1) >= least[0, 0]):
        possible = np.where(free & (overlap[row] >= least), overlap[row], -1.0)
        best = _last_best(np.where(outside, -1.0, possible))
        taken = possible[every, best] >= 0
        taken &= ~outside[best]
        if outside.any():
            other = _last_best(np.where(outside, possible, -1.0))
            instead = ~taken & (possible[every, other] >= 0) & outside[other]
            best, skipped[:, row] = np.where(instead, other, best), instead
            taken |= instead
        found[:, row] = taken
        partner[taken, row] = best[taken]
        free[every[taken], best[taken]] = ignored[best[taken]]
    return found, skipped, partner


def _last_best(values: Floats) -> Numbers:
    """Return the last index of the maximum of each row: among equal IoUs COCO takes the later object."""
    return np.asarray(values.shape[1] - 1 - values[:, ::-1].argmax(axis=1), dtype=np.int64)


def _mask_overlap(lengths: list[dict[str, Any]], objects: Objects) -> tuple[Floats, Floats]:
    """Return areas ``(D,)`` and IoUs ``(D, M)`` of masks."""
    from pycocotools import mask as coco

    areas = coco.area(lengths).astype(np.float64) if lengths else np.zeros(0)
    assert objects.masks is not None
    if not lengths or not objects.masks:
        return areas, np.zeros((len(lengths), len(objects)))
    return areas, np.asarray(coco.iou(lengths, list(objects.masks), objects.crowd.astype(np.uint8)))
