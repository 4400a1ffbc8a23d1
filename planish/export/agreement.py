"""How far two sets of outputs are apart, where a difference in the last bit may exchange two boxes or tip a pixel over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]
_SURE = 0.3  # a box that is less sure may come or go
_COVER = 0.9  # overlap by which a box, or a mask, is the same one
_NEAR = 0.01  # of the image's sides: corners of the same box, where it is so small that a pixel is much of it
_FEW = 2  # pixels by which the same small mask may differ
_TIPPED = 0.01  # of the pixels of a label map that may be others
_GRID = 4096  # steps from 0 to 1 that are kept of a confidence


def disagreement(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """How far outputs are from what was expected, as a share of the largest expected value; 0 where they are the same.

    Args:
        expected: by name, first axis N.
        found: likewise.
    """
    return max((float(share.max(initial=0.0)) for share in differences(expected, found).values()), default=0.0)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Shares]:
    """The same for each output that can be judged on its own, one value an image ``(N,)``; infinite where it is missing or of another
    shape.

    Detections are judged together, as ``scores``: each that is surer than 0.3 has one of the same label and nearly the same box and mask
    among the others, from which scores and corners may differ. One that has none counts by how much surer it is than 0.3, or, where the
    others' list is full, than its last. Label maps are alike (0) where 99 % of their pixels are, and else are not (1). So many pixels
    decide on their ``confidence``, too. All other outputs are compared number by number.
    """
    count = len(next(iter(expected.values())))
    shapes = {name: np.shape(values) for name, values in expected.items()}
    wrong = {name: np.full(count, np.inf) for name, shape in shapes.items() if name not in found or np.shape(found[name]) != shape}
    if wrong:
        return wrong
    numbers, told = set(expected), dict[str, Shares]()
    if {"boxes", "scores", "labels"} <= numbers:
        numbers -= {"boxes", "scores", "labels", "masks"}
        scale = _largest(expected["scores"])
        told["scores"] = np.array([_of_detections(_image(expected, i), _image(found, i), scale) for i in range(count)])
    if {"classes", "confidence"} <= numbers:
        numbers -= {"classes", "confidence"}
        other = np.asarray(expected["classes"]) != np.asarray(found["classes"])
        told["classes"] = np.where(other.reshape(count, -1).mean(axis=1) <= _TIPPED, 0.0, 1.0)
        apart = np.sort(_apart(expected["confidence"], found["confidence"]), axis=1)
        told["confidence"] = apart[:, -1 - int(_TIPPED * apart.shape[1])]
    return told | {name: _apart(expected[name], found[name]).max(axis=1, initial=0.0) for name in expected if name in numbers}


def essential(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """As much of outputs as ``differences`` looks at, so that they need little room in a file: masks as bool, of what is told."""
    kept = dict(outputs)
    if {"scores", "masks"} <= set(outputs):
        sure = np.asarray(outputs["scores"]) > _SURE / 2
        kept["masks"] = (np.asarray(outputs["masks"]) > 0.5) & sure[..., None, None]
    if {"classes", "confidence"} <= set(outputs):
        kept["confidence"] = (np.round(np.asarray(outputs["confidence"]) * _GRID) / _GRID).astype(np.float32)
    return kept


def _largest(values: Any) -> float:
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _apart(expected: Any, found: Any) -> Shares:
    """Absolute differences ``(N, values)`` as shares of the largest expected value; not a number counts as infinite."""
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - expected).reshape(len(expected), -1) / _largest(expected)
    apart = np.where(found.reshape(apart.shape) == expected.reshape(apart.shape), 0.0, apart)
    return np.where(np.isnan(apart), np.inf, apart)


def _image(outputs: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {name: np.asarray(values[index]) for name, values in outputs.items()}


def _of_detections(expected: Mapping[str, Any], found: Mapping[str, Any], scale: float) -> float:
    """Largest difference between the detections of one image, after each was given its counterpart, the surest first."""
    if any(not np.isfinite(found[name]).all() for name in ("scores", "boxes")):
        return float("inf")
    ours, theirs = expected["scores"], found["scores"]
    free = theirs > 0
    same = (expected["labels"][:, None] == found["labels"][None]) & _same_boxes(expected["boxes"], found["boxes"])
    worst = 0.0
    single = []
    for row in np.argsort(-ours, kind="stable"):
        if ours[row] <= 0:
            break
        possible = np.flatnonzero(free & same[row])
        possible = possible[np.argsort(np.abs(theirs[possible] - ours[row]), kind="stable")]
        partner = next((int(other) for other in possible if _same_mask(expected, found, int(row), int(other))), None)
        if partner is None:
            single.append(float(ours[row]) - max(_SURE, float(theirs.min())))
            continue
        free[partner] = False
        if max(ours[row], theirs[partner]) > _SURE:
            corners = float(np.abs(expected["boxes"][row] - found["boxes"][partner]).max())
            worst = max(worst, abs(float(ours[row] - theirs[partner])) / scale, corners)
    single += [float(score) - max(_SURE, float(ours.min())) for score in theirs[free]]
    return max([worst, *(missing / scale for missing in single)])


def _same_boxes(ours: Any, theirs: Any) -> npt.NDArray[np.bool_]:
    """Which of these boxes ``(K, 4)`` and ``(L, 4)`` are the same, bool ``(K, L)``."""
    ours, theirs = np.asarray(ours, np.float64)[:, None], np.asarray(theirs, np.float64)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    union = (ours[..., 2:] - ours[..., :2]).prod(axis=-1) + (theirs[..., 2:] - theirs[..., :2]).prod(axis=-1) - shared
    found: npt.NDArray[np.bool_] = (shared > _COVER * union) | (np.abs(ours - theirs).max(axis=-1) <= _NEAR)
    return found


def _same_mask(expected: Mapping[str, Any], found: Mapping[str, Any], row: int, other: int) -> bool:
    if "masks" not in expected or expected["scores"][row] <= _SURE:
        return True
    ours, theirs = expected["masks"][row] > 0.5, found["masks"][other] > 0.5
    differing, union = int((ours != theirs).sum()), int((ours | theirs).sum())
    return differing <= max(_FEW, (1 - _COVER) * union)
