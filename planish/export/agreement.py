"""How far two sets of outputs are apart, where a difference in the last bit may exchange two boxes or tip a pixel over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_SURE = 0.3  # a box that is less sure may come or go
_COVER = 0.8  # overlap by which a box is the same one
_PIXELS = 0.98  # of a label map that are alike
_READ_TOGETHER = ("boxes", "scores", "labels", "masks")


def difference(name: str, found: Mapping[str, Any], expected: Mapping[str, Any], scale: float) -> float:
    """How far one output of one image is from what was expected, as a share of ``scale``; 0 where it is the same.

    Boxes are as far off as their scores are from those of their like among the others; label maps as far as more pixels differ than may.

    Args:
        name: of the output.
        found: all outputs of the image.
        expected: likewise.
        scale: the largest expected value of that output.
    """
    if "boxes" in expected and name in _READ_TOGETHER:
        return max(_apart(found, expected), _apart(expected, found)) / (scale or 1.0) if name == "scores" else 0.0
    if name == "classes":
        alike = float((np.asarray(found[name]) == np.asarray(expected[name])).mean())
        return 0.0 if alike >= _PIXELS else 1.0 - alike
    if name == "confidence" and np.ndim(expected[name]) == 2:  # of the pixels of a label map, on whose borders it changes quickly
        return float(np.abs(found[name] - expected[name]).mean()) / (scale or 1.0)
    return float(np.abs(found[name] - expected[name]).max()) / (scale or 1.0)


def _apart(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """How far the score of a box is from that of its like, at most; of a box without, how far from what may come or go."""
    worst = 0.0
    for box, score, label in zip(expected["boxes"], expected["scores"], expected["labels"], strict=True):
        if score > _SURE:
            same = (np.asarray(found["labels"]) == label) & (_overlap(np.asarray(found["boxes"]), box) > _COVER)
            near = np.abs(np.asarray(found["scores"])[same] - score).min(initial=np.inf)
            worst = max(worst, float(min(near, score - _SURE)))
    return worst


def _overlap(boxes: Any, box: Any) -> Any:
    shared = np.prod(np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None), axis=1)
    union = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2]) - shared
    return shared / np.maximum(union, 1e-12)
