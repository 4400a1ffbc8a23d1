"""Detected objects and regions as plain JSON, with boxes and masks in pixels of the image that was sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from planish.data.targets.run_lengths import run_lengths
from planish.evaluation.drawing import LEAST_SCORE

_SIDE = 1024  # maximum side in pixels to which probabilities are interpolated; beyond it, nearest neighbour is used


@dataclass(frozen=True)
class View:
    """The part of an image that a model receives.

    Args:
        height: height in pixels of the image that was sent, after applying its EXIF orientation.
        width: width in pixels, likewise.
        region: the part that the model receives: left, top, width and height, normalized to the image's sides.
    """

    height: int
    width: int
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def objects(image: Mapping[str, Any], class_names: Sequence[str], view: View, threshold: float = LEAST_SCORE) -> list[dict[str, Any]]:
    """Return ``class``, ``confidence``, ``box`` (pixels), ``shares`` (normalized box) and, if predicted, ``mask`` of each object.

    Objects are in the model's order, the highest score first.

    Args:
        image: ``boxes`` ``(K, 4)``, ``scores`` and ``labels`` ``(K,)``, optionally ``masks`` ``(K, h, w)``; rows with score 0 are padding.
        class_names: indexed by label.
        view: the part of the image that the model received.
        threshold: minimum score.
    """
    left, top, wide, high = view.region
    found = []
    for row in confident_rows(image["scores"], threshold):
        box = np.clip(image["boxes"][row].astype(np.float64), 0, 1)
        shares = box * [wide, high, wide, high] + [left, top, left, top]
        one = {
            "class": class_names[int(image["labels"][row])],
            "confidence": float(image["scores"][row]),
            "box": [round(float(value), 2) for value in shares * [view.width, view.height, view.width, view.height]],
            "shares": [round(float(value), 6) for value in shares],
        }
        if "masks" in image:
            one["mask"] = _mask(image["masks"][row], box, view)
        found.append(one)
    return found


def regions(image: Mapping[str, Any], class_names: Sequence[str], view: View) -> list[dict[str, Any]]:
    """Return ``class``, ``share`` of the model's input, mean ``confidence`` and ``mask`` of each class that occurs, the largest first.

    Args:
        image: ``classes`` and ``confidence`` ``(h, w)``.
        class_names: indexed by label.
        view: the part of the image that the model received.
    """
    labels, sure = image["classes"], image["confidence"]
    found: list[dict[str, Any]] = []
    for label in np.unique(labels):
        inside = labels == label
        found.append(
            {
                "class": class_names[int(label)],
                "share": round(float(inside.mean()), 6),
                "confidence": float(sure[inside].mean()),
                "mask": run_lengths(inside, (view.height, view.width), view.region),
            }
        )
    return sorted(found, key=lambda region: -region["share"])


def confident_rows(scores: Any, threshold: float = LEAST_SCORE) -> Any:
    """Return the rows of detections with at least this score; padding, with score 0, is never included."""
    return np.flatnonzero((scores >= threshold) & (scores > 0))


def _mask(probability: Any, box: Any, view: View) -> dict[str, Any]:
    """Return the run-length encoding of a probability map ``(h, w)`` over the model's input, interpolated only within the box."""
    left, top, wide, high = view.region
    # about the resolution of the image region that the map covers
    scale = min(1.0, _SIDE / max(view.height * high, view.width * wide))
    width, height = max(1, round(view.width * wide * scale)), max(1, round(view.height * high * scale))
    x0, y0 = math.floor(box[0] * width), math.floor(box[1] * height)
    x1, y1 = max(x0 + 1, math.ceil(box[2] * width)), max(y0 + 1, math.ceil(box[3] * height))
    rows, columns = probability.shape
    source = (x0 / width * columns, y0 / height * rows, min(columns, x1 / width * columns), min(rows, y1 / height * rows))
    if not (source[0] < source[2] and source[1] < source[3]):  # an empty box at the right or lower edge
        return run_lengths(np.zeros((1, 1), bool), (view.height, view.width))
    map_ = Image.fromarray(np.ascontiguousarray(probability, np.float32))
    inside = np.asarray(map_.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, source)) > 0.5
    place = (left + wide * x0 / width, top + high * y0 / height, wide * (x1 - x0) / width, high * (y1 - y0) / height)
    return run_lengths(inside, (view.height, view.width), place)
