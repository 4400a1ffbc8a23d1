"""Which detections find which objects, as COCO's own evaluation decides it, image by image and class by class.

T.-Y. Lin et al., Microsoft COCO: common objects in context, 2014 (arXiv:1405.0312), and its reference code, ``pycocotools.cocoeval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.data.objects import Objects

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap, in COCO's numbers
MOST = 100  # detections an image that count
RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # of areas, in pixels


@dataclass(frozen=True)
class Matches:
    """Detections of all images and classes in a row ``(D,)``, and the objects ``(G,)``.

    Args:
        image: of each detection.
        label: its class.
        score: how sure it is.
        found: of an object, at each of the overlaps ``(T, D)``.
        ignored: neither right nor wrong there ``(T, D)``: it lies on a crowd, or is of another size.
        object_image: of each object that counts.
        object_label: its class.
        images: how many there are.
    """

    image: Numbers
    label: Numbers
    score: Floats
    found: Flags
    ignored: Flags
    object_image: Numbers
    object_label: Numbers
    images: int


def detections(outputs: Outputs, index: int, objects: Objects) -> tuple[Floats, Numbers, Floats]:
    """Scores, labels and boxes in pixels ``(left, top, width, height)`` of what was found in an image, the surest first."""
    scores = np.asarray(outputs["scores"][index], np.float64)
    order = np.argsort(-scores, kind="mergesort")
    order = order[scores[order] > 0]
    sides = np.array([objects.width, objects.height, objects.width, objects.height], np.float64)
    boxes = np.asarray(outputs["boxes"][index], np.float64)[order] * sides
    boxes[:, 2:] -= boxes[:, :2]
    return scores[order], np.asarray(outputs["labels"][index], np.int64)[order], boxes


def box_iou(a: Floats, b: Floats, crowd: Flags) -> Floats:
    """Overlap ``(D, G)`` of boxes ``(left, top, width, height)``; over the detection's own area where the object is a crowd."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.prod(np.clip(right_bottom - left_top, 0, None), axis=2)
    own, others = np.prod(a[:, 2:], axis=1)[:, None], np.prod(b[:, 2:], axis=1)[None]
    union = np.where(crowd[None], own, own + others - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def run_lengths(masks: Any, height: int, width: int) -> list[dict[str, Any]]:
    """Probabilities ``(M, h, w)`` over the image as masks of its size: enlarged, then cut at a half."""
    from pycocotools import mask as coco

    enlarged = [np.asarray(Image.fromarray(np.asarray(m, np.float32)).resize((width, height), Image.Resampling.BILINEAR)) for m in masks]
    return [coco.encode(np.asfortranarray(m > 0.5, dtype=np.uint8)) for m in enlarged]


def match(outputs: Outputs, targets: Sequence[Objects], *, masks: bool = False, size: str = "all") -> Matches:
    """Match all images.

    Args:
        outputs: ``boxes`` ``(N, K, 4)`` as shares, ``scores`` and ``labels`` ``(N, K)``, for masks ``masks`` ``(N, K, h, w)``.
        targets: of the images ``(N,)``.
        masks: overlap of masks instead of boxes.
        size: of the objects that count, see ``RANGES``.
    """
    images, labels, scores, found, ignored, object_images, object_labels = [], [], [], [], [], [], []
    low, high = RANGES[size]
    for index, objects in enumerate(targets):
        said, classes, boxes = detections(outputs, index, objects)
        outside = objects.crowd | (objects.areas < low) | (objects.areas > high)
        if masks:
            order = np.argsort(-np.asarray(outputs["scores"][index], np.float64), kind="mergesort")[: len(said)]
            lengths = run_lengths(outputs["masks"][index][order], objects.height, objects.width)
        sides = np.array([objects.width, objects.height, objects.width, objects.height], np.float64)
        theirs = objects.boxes.astype(np.float64) * sides
        theirs[:, 2:] -= theirs[:, :2]
        for label in np.union1d(classes, objects.labels):
            rows, of_class = np.flatnonzero(classes == label)[:MOST], np.flatnonzero(objects.labels == label)
            of_class = of_class[np.argsort(outside[of_class], kind="mergesort")]
            if masks:
                overlap, areas = _mask_overlap(lengths, rows, objects, of_class)
            else:
                overlap, areas = box_iou(boxes[rows], theirs[of_class], objects.crowd[of_class]), np.prod(boxes[rows, 2:], axis=1)
            hit, skip = _match(overlap, outside[of_class], objects.crowd[of_class])
            skip |= ~hit & ((areas < low) | (areas > high))[None]
            images.append(np.full(len(rows), index))
            labels.append(np.full(len(rows), label))
            scores.append(said[rows])
            found.append(hit)
            ignored.append(skip)
            counted = int((~outside[of_class]).sum())
            object_images.append(np.full(counted, index))
            object_labels.append(np.full(counted, label))
    none = np.zeros((len(THRESHOLDS), 0), bool)
    return Matches(
        np.concatenate([*images, np.zeros(0)]).astype(np.int64), np.concatenate([*labels, np.zeros(0)]).astype(np.int64),
        np.concatenate([*scores, np.zeros(0)]), np.concatenate([*found, none], axis=1), np.concatenate([*ignored, none], axis=1),
        np.concatenate([*object_images, np.zeros(0)]).astype(np.int64), np.concatenate([*object_labels, np.zeros(0)]).astype(np.int64),
        len(targets),
    )  # fmt: skip


def _match(overlap: Floats, outside: Flags, crowd: Flags) -> tuple[Flags, Flags]:
    """Whether each detection, the surest first, finds an object, and whether that one does not count: ``(T, D)`` both.

    Args:
        overlap: ``(D, G)``, objects that do not count last.
        outside: those ``(G,)``.
        crowd: of them, those that may be found any number of times.
    """
    count, objects = overlap.shape
    found, skipped = np.zeros((len(THRESHOLDS), count), bool), np.zeros((len(THRESHOLDS), count), bool)
    if not objects:
        return found, skipped
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
        free[every[taken], best[taken]] = crowd[best[taken]]
    return found, skipped


def _last_best(values: Floats) -> Numbers:
    """The last of the largest values of each row: of equal overlaps COCO takes the later object."""
    return np.asarray(values.shape[1] - 1 - values[:, ::-1].argmax(axis=1), dtype=np.int64)


def _mask_overlap(lengths: list[dict[str, Any]], rows: Numbers, objects: Objects, of_class: Numbers) -> tuple[Floats, Floats]:
    from pycocotools import mask as coco

    ours = [lengths[i] for i in rows]
    areas = coco.area(ours).astype(np.float64) if ours else np.zeros(0)
    assert objects.masks is not None
    theirs = [objects.masks[i] for i in of_class]
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs))), areas
    return np.asarray(coco.iou(ours, theirs, objects.crowd[of_class].astype(np.uint8))), areas
