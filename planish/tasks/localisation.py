"""What was found in an image, and where, as plain JSON: boxes and masks in the pixels of the image that was sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from planish.data.targets.run_lengths import run_lengths
from planish.evaluation.drawing import LEAST_SCORE

_SIDE = 1024  # pixels of the longer side to which probabilities are enlarged; beyond that the nearest one's is taken


@dataclass(frozen=True)
class View:
    """What a model was shown of an image.

    Args:
        height: of the image that was sent, turned as its EXIF says, in pixels.
        width: likewise.
        region: the part of it: left, top, width and height, normalized to the image's sides.
    """

    height: int
    width: int
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def objects(image: Mapping[str, Any], class_names: Sequence[str], view: View, threshold: float = LEAST_SCORE) -> list[dict[str, Any]]:
    """``class``, ``confidence``, ``box`` (pixels), ``shares`` and perhaps ``mask`` of each object, in the model's order, the surest first.

    Args:
        image: ``boxes`` ``(K, 4)``, ``scores`` and ``labels`` ``(K,)``, perhaps ``masks`` ``(K, h, w)``; a score of 0 is nothing.
        class_names: by label.
        view: where that lies.
        threshold: of the score.
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
    """``class``, ``share`` of what the model was shown, mean ``confidence`` and ``mask`` of each class that is there, the largest first.

    Args:
        image: ``classes`` and ``confidence`` ``(h, w)``.
        class_names: by number.
        view: where that lies.
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
    """Rows of the detections that are told; where the threshold is 0 those that are nothing still are not."""
    return np.flatnonzero((scores >= threshold) & (scores > 0))


def _mask(probability: Any, box: Any, view: View) -> dict[str, Any]:
    """Run lengths of a map of probabilities ``(h, w)`` over all that the model was shown, enlarged only where the box is."""
    left, top, wide, high = view.region
    # about the pixels of the image that the map stands for
    scale = min(1.0, _SIDE / max(view.height * high, view.width * wide))
    width, height = max(1, round(view.width * wide * scale)), max(1, round(view.height * high * scale))
    x0, y0 = math.floor(box[0] * width), math.floor(box[1] * height)
    x1, y1 = max(x0 + 1, math.ceil(box[2] * width)), max(y0 + 1, math.ceil(box[3] * height))
    rows, columns = probability.shape
    source = (x0 / width * columns, y0 / height * rows, min(columns, x1 / width * columns), min(rows, y1 / height * rows))
    if not (source[0] < source[2] and source[1] < source[3]):  # a box of no size at the right or the lower edge
        return run_lengths(np.zeros((1, 1), bool), (view.height, view.width))
    map_ = Image.fromarray(np.ascontiguousarray(probability, np.float32))
    inside = np.asarray(map_.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, source)) > 0.5
    place = (left + wide * x0 / width, top + high * y0 / height, wide * (x1 - x0) / width, high * (y1 - y0) / height)
    return run_lengths(inside, (view.height, view.width), place)
