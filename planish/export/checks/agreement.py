"""Differences between two sets of outputs, in which an error of the last bit may swap two boxes or change the class of a pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.evaluation.drawing import LEAST_SCORE

Shares = npt.NDArray[np.float64]
_DETECTIONS, _LABEL_MAPS = {"boxes", "scores", "labels"}, {"classes", "confidence"}  # output names
_COVER = 0.9  # IoU above which two boxes, or two masks, count as the same
_HALF = 0.5  # the same threshold for models that round intermediate values
_NEAR = 0.01  # normalized; boxes whose coordinates differ by at most this count as the same, as one pixel is much of a small box
_FEW = 2  # pixels by which equal small masks may differ
_TIPPED = 0.01  # share of the pixels of label maps that may differ
_GRID = 4096  # steps from 0 to 1 that a stored confidence is rounded to


@dataclass(frozen=True)
class Difference:
    """The difference of one output.

    Args:
        shares: of each image ``(N,)``; see ``differences``.
        together: whether the mean over the images is compared with a tolerance, or each image. Integer kernels of another processor
            change some boxes of some images (measured for an INT8 detector of mAP 21 without VNNI: 0.13 in one of 16 images, 0.04 in the
            mean; another model gives 0.5), so the mean is informative where single images are not.
    """

    shares: Shares
    together: bool = False

    @property
    def value(self) -> float:
        """The mean or the maximum over the images; 0 for equal outputs."""
        return float(self.shares.mean() if self.together else self.shares.max(initial=0.0))


def disagreement(expected: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """The largest difference between two sets of outputs, relative to the largest expected value; 0 if they are equal.

    Args:
        expected: outputs by name, first axis N.
        found: likewise.
    """
    return max((one.value for one in differences(expected, found).values()), default=0.0)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Difference]:
    """The difference of each output. If some are missing, of another shape, or bool in only one of the sets, only these, as infinite.

    The outputs of a detector are compared together, as ``scores``. Each detection is matched to one of the same label and nearly the
    same box, and the differences in score, coordinates and mask of the pairs with a score above 0.3 are added up. A detection without a
    match adds the amount by which its score exceeds 0.3 or, if the other list is full, the lowest score of that list. The sum is
    relative to the sum of the scores above 0.3. For label maps (``classes``), the difference is the share of pixels of another class, or
    0 if at most 1 % differ; for their ``confidence`` it is the mean difference. All other outputs are compared value by value.
    """
    count = len(next(iter(expected.values())))
    shapes = {name: np.shape(values) for name, values in expected.items()}
    wrong = [name for name, shape in shapes.items() if name not in found or np.shape(found[name]) != shape]
    wrong += [name for name in shapes.keys() - {"masks", *wrong} if _is_bool(expected[name]) != _is_bool(found[name])]
    if wrong:
        return {name: Difference(np.full(count, np.inf)) for name in wrong}
    numbers, places = numeric_outputs(expected), dict[str, Shares]()
    if set(expected) >= _DETECTIONS:
        apart, confident, _ = np.array([_of_detections(_image(expected, i), _image(found, i)) for i in range(count)]).T
        places["scores"] = apart / (confident.mean() or 1.0)
    if set(expected) >= _LABEL_MAPS:
        other = (np.asarray(expected["classes"]) != np.asarray(found["classes"])).reshape(count, -1).mean(axis=1)
        places["classes"] = other * (other.mean() > _TIPPED)
        places["confidence"] = _apart(expected["confidence"], found["confidence"]).mean(axis=1)
    alone = {name: Difference(_apart(expected[name], found[name]).max(axis=1, initial=0.0)) for name in numbers}
    return {name: Difference(shares, together=True) for name, shares in places.items()} | alone


def numeric_outputs(outputs: Mapping[str, Any]) -> list[str]:
    """The names of the outputs that are compared value by value: all except detections and label maps."""
    decoded = set[str]()
    if set(outputs) >= _DETECTIONS:
        decoded |= _DETECTIONS | {"masks"}
    if set(outputs) >= _LABEL_MAPS:
        decoded |= _LABEL_MAPS
    return [name for name in outputs if name not in decoded]


def decoded_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """The difference of decoded outputs of models that round intermediate values: 0 if they are equal, about 1 if they are unrelated.

    For detections (``scores``), the difference relative to that without any matched box; boxes match above an IoU of 0.5. For label maps
    (``classes``), the share of pixels of another class relative to that of two independent maps (1 minus Cohen's kappa); for their
    ``confidence``, the mean difference. Other outputs are not compared here.
    """
    result = {}
    if set(expected) >= _DETECTIONS:
        count = len(expected["scores"])
        each = np.array([_of_detections(_image(expected, i), _image(found, i), _HALF) for i in range(count)])
        apart, _, disjoint = each.sum(axis=0)
        result["scores"] = float(apart / disjoint) if disjoint > 0 else float(apart)
    if set(expected) >= _LABEL_MAPS:
        ours, theirs = np.asarray(expected["classes"]).ravel(), np.asarray(found["classes"]).ravel()
        labels = np.union1d(ours, theirs)
        by_chance = sum(float((ours == label).mean() * (theirs == label).mean()) for label in labels)
        result["classes"] = float((ours != theirs).mean()) / (1 - by_chance) if by_chance < 1 else 0.0
        result["confidence"] = float(_apart(expected["confidence"], found["confidence"]).mean())
    return result


def compact_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs reduced to what ``differences`` compares, to keep files small: bool masks, empty for low scores; rounded confidences."""
    kept = dict(outputs)
    if {"scores", "masks"} <= set(outputs):
        sure = np.asarray(outputs["scores"]) > LEAST_SCORE / 2
        kept["masks"] = (np.asarray(outputs["masks"]) > 0.5) & sure[..., None, None]
    if set(outputs) >= _LABEL_MAPS:
        kept["confidence"] = (np.round(np.asarray(outputs["confidence"]) * _GRID) / _GRID).astype(np.float32)
    return kept


def _is_bool(values: Any) -> bool:
    return bool(np.asarray(values).dtype == np.bool_)


def _largest(values: Any) -> float:
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _apart(expected: Any, found: Any) -> Shares:
    """Absolute differences ``(N, values)`` relative to the largest expected value; NaN counts as infinite."""
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - expected).reshape(len(expected), -1) / _largest(expected)
    apart = np.where(found.reshape(apart.shape) == expected.reshape(apart.shape), 0.0, apart)
    return np.where(np.isnan(apart), np.inf, apart)


def _image(outputs: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {name: np.asarray(values[index]) for name, values in outputs.items()}


def _of_detections(expected: Mapping[str, Any], found: Mapping[str, Any], cover: float = _COVER) -> tuple[float, float, float]:
    """The difference of the detections of one image, matched in descending order of score; the sum of the scores above 0.3; and the
    difference if no detection had a match."""
    if any(not np.isfinite(found[name]).all() for name in ("scores", "boxes")):
        return float("inf"), 1.0, 1.0
    ours, theirs = expected["scores"], found["scores"]
    free = theirs > 0
    same = (expected["labels"][:, None] == found["labels"][None]) & _same_boxes(expected["boxes"], found["boxes"], cover)
    apart, single = 0.0, []
    for row in np.argsort(-ours, kind="stable"):
        if ours[row] <= 0:
            break
        possible = np.flatnonzero(free & same[row])
        possible = possible[np.argsort(np.abs(theirs[possible] - ours[row]), kind="stable")]
        if not len(possible):
            single.append(float(ours[row]) - max(LEAST_SCORE, float(theirs.min())))
            continue
        surer = float(max(ours[row], theirs[possible[0]]))
        if surer <= LEAST_SCORE:
            free[possible[0]] = False
            continue
        masks = [_masks_apart(expected, found, int(row), int(other)) for other in possible]
        partner = int(possible[int(np.argmin(masks))])
        free[partner] = False
        corners = float(np.abs(expected["boxes"][row] - found["boxes"][partner]).max())
        apart += abs(float(ours[row] - theirs[partner])) + surer * (corners + min(masks))
    single += [float(score) - max(LEAST_SCORE, float(ours.min())) for score in theirs[free]]
    confident = max(float(scores[scores > LEAST_SCORE].sum()) for scores in (ours, theirs))
    disjoint = sum(float((scores - LEAST_SCORE).clip(0).sum()) for scores in (ours, theirs))
    return apart + sum(missing for missing in single if missing > 0), confident, disjoint


def _same_boxes(ours: Any, theirs: Any, cover: float) -> npt.NDArray[np.bool_]:
    """Whether each pair of boxes ``(K, 4)`` and ``(L, 4)`` counts as the same box, bool ``(K, L)``."""
    ours, theirs = np.asarray(ours, np.float64)[:, None], np.asarray(theirs, np.float64)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    union = (ours[..., 2:] - ours[..., :2]).prod(axis=-1) + (theirs[..., 2:] - theirs[..., :2]).prod(axis=-1) - shared
    found: npt.NDArray[np.bool_] = (shared > cover * union) | (np.abs(ours - theirs).max(axis=-1) <= _NEAR)
    return found


def _masks_apart(expected: Mapping[str, Any], found: Mapping[str, Any], row: int, other: int) -> float:
    """1 minus the IoU of two masks; 0 if they count as the same."""
    if "masks" not in expected:
        return 0.0
    ours, theirs = expected["masks"][row] > 0.5, found["masks"][other] > 0.5
    differing, union = int((ours != theirs).sum()), int((ours | theirs).sum())
    return 0.0 if differing <= max(_FEW, (1 - _COVER) * union) else differing / union
