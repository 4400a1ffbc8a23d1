"""COCO's mean average precision and recall of boxes or masks, with 95% intervals over images.

An interval draws images anew some hundred times: a draw is a weight of each image, and all draws are added up at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from planish.evaluation.metrics.classification import percent
from planish.evaluation.metrics.matching import COCO_MAX_DETECTIONS, RANGES, THRESHOLDS, Flags, Floats, Matches, match, seen_in
from planish.evaluation.statistics.intervals import Interval, known_mean
from planish.measurement import Measurement

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.data.targets.objects import Objects

_RECALLS = np.linspace(0, 1, 101)
_RESAMPLES = 200
_GROUPS = 100  # of images, that are left out in turn


def metric_name(name: str, *, uncapped: bool) -> str:
    """``uncapped_map`` where all detections count and not only COCO's 100 an image and class."""
    return f"uncapped_{name.removesuffix(f'_{COCO_MAX_DETECTIONS}')}" if uncapped else name


def detection_metrics(
    outputs: Outputs, targets: Sequence[Objects], class_names: Sequence[str], *, masks: bool = False, uncapped: bool = False
) -> dict[str, Measurement]:
    """``map``, ``map_50``, ``map_75``, ``mar_100``, then ``map_small``, ``map_medium``, ``map_large`` where there are such objects.

    Those of masks are ``mask_map`` and so on, before those of boxes; uncapped ones are ``uncapped_map``, ``mask_uncapped_map`` and so on,
    and ``uncapped_mar``. In percent.

    Args:
        outputs: ``boxes``, ``scores``, ``labels`` and, for masks, ``masks``; see ``matching.seen_in``.
        targets: of the images.
        class_names: a label is an index into them. Classes of which there is no object do not count.
        masks: judge masks as well, and first.
        uncapped: count all detections, not only COCO's 100 an image and class: for images that hold more objects than that.
    """
    found: list[Measurement] = []
    n = len(targets)
    weights = bootstrap_counts(n)
    for kind in ["mask_", ""] if masks else [""]:
        images = seen_in(outputs, targets, masks=kind == "mask_")
        matches = match(images, uncapped=uncapped)
        precision = average_precision(matches, len(class_names), weights)
        of = {"map": precision, "map_50": precision[:, :, :1], "map_75": precision[:, :, 5:6]}
        of["mar_100"] = _recall(matches, len(class_names), weights)
        for size in list(RANGES)[1:]:
            of[f"map_{size}"] = average_precision(match(images, size, uncapped=uncapped), len(class_names), weights)
        found += [
            percent(kind + metric_name(name, uncapped=uncapped), n, _interval(known_mean(values)))
            for name, values in of.items()
            if not np.isnan(values[0]).all()
        ]
    first = f"{'mask_' * masks}{metric_name('map', uncapped=uncapped)}"
    return {m.name: m for m in found} or {first: percent(first, n, Interval(0.0, 0.0, 1.0))}


def average_precision_by_class(
    outputs: Outputs, targets: Sequence[Objects], class_names: Sequence[str], *, masks: bool = False, uncapped: bool = False
) -> dict[str, Measurement]:
    """Average precision of each class that there are objects of, in percent; ``n`` is the number of its objects."""
    matches, weights = match(seen_in(outputs, targets, masks=masks), uncapped=uncapped), bootstrap_counts(len(targets))
    precision = average_precision(matches, len(class_names), weights)
    counts = np.bincount(matches.object_label, minlength=len(class_names))
    return {
        name: percent("average_precision", int(counts[i]), _interval(known_mean(precision[:, i])))
        for i, name in enumerate(class_names)
        if counts[i]
    }


def detection_scores(
    outputs: Outputs, targets: Sequence[Objects], class_names: Sequence[str], *, masks: bool = False, uncapped: bool = False
) -> Floats:
    """One number per image ``(N,)``, on the 0..1 scale, whose mean is the mean average precision and whose spread is that of it.

    Jackknife pseudo-values (J. Tukey 1958): ``g m - (g - 1) m_without``, of groups of images where there are more than a hundred; an image
    has its group's, as far from the mean as gives the mean its right standard error.
    """
    n = len(targets)
    groups = np.arange(n) % min(n, _GROUPS)
    count = int(groups.max()) + 1
    weights = np.concatenate([np.ones((1, n)), groups[None] != np.arange(count)[:, None]]).astype(np.float64)
    matches = match(seen_in(outputs, targets, masks=masks), uncapped=uncapped)
    values = np.nan_to_num(known_mean(average_precision(matches, len(class_names), weights)))
    whole, without = values[0], values[1:]
    if count < 2:
        return np.full(n, whole)
    pseudo = count * whole - (count - 1) * without
    spread = (pseudo - pseudo.mean())[groups] * np.sqrt(n / count)
    return np.asarray(whole + spread - spread.mean())


def average_precision(matches: Matches, classes: int, weights: Floats) -> Floats:
    """Of each draw, class and overlap that was matched at, ``(R, classes, T)``; NaN for classes without objects.

    Precision is made to fall only, and read at 101 recalls, as COCO does.

    Args:
        matches: all images.
        classes: how many there are.
        weights: how often each image counts in each draw ``(R, N)``.
    """
    result = np.full((len(weights), classes, len(matches.found)), np.nan)
    for label in np.unique(matches.object_label):
        rows = np.flatnonzero(matches.label == label)
        rows = rows[np.argsort(-matches.score[rows], kind="mergesort")]
        total = weights[:, matches.object_image[matches.object_label == label]].sum(axis=1)
        counted = weights[:, matches.image[rows]]
        for t in range(len(matches.found)):
            result[:, label, t] = _area(matches.found[t, rows], matches.ignored[t, rows], counted, total)
    return result


def _area(found: Flags, ignored: Flags, weights: Floats, total: Floats) -> Floats:
    """Mean precision at the recalls, of each draw ``(R,)``."""
    known = total > 0
    result = np.where(known, 0.0, np.nan)
    hits = np.flatnonzero(found & ~ignored)
    if not len(hits):
        return result
    # precision rises at hits only, and what comes after the last of them changes nothing
    last = hits[-1] + 1
    counts = ~ignored[:last]
    right = np.cumsum(weights[:, :last] * (found[:last] & counts), axis=1)
    shown = np.cumsum(weights[:, :last] * counts, axis=1)
    right, shown = right[:, hits], shown[:, hits]
    precision = right / (shown + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # a hit gives the precision at the recalls that are reached with it and not before
    reached = np.searchsorted(_RECALLS, right[known] / total[known, None], side="right")
    result[known] = (precision[known] * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
    return result


def _recall(matches: Matches, classes: int, weights: Floats) -> Floats:
    """The share of objects that is found at all ``(R, classes, T)``."""
    result = np.full((len(weights), classes, len(THRESHOLDS)), np.nan)
    for label in np.unique(matches.object_label):
        rows = matches.label == label
        total = weights[:, matches.object_image[matches.object_label == label]].sum(axis=1)
        right = weights[:, matches.image[rows]] @ (matches.found[:, rows] & ~matches.ignored[:, rows]).T
        result[:, label] = np.divide(right, total[:, None], out=np.full_like(right, np.nan), where=total[:, None] > 0)
    return result


def bootstrap_counts(n: int) -> Floats:
    """How often each image counts ``(1 + resamples, n)``; the first row is what was really seen."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.ones((1, n)), drawn]).astype(np.float64)


def _interval(values: Floats) -> Interval:
    """The spread of the draws, about what was seen: images drawn twice bring their detections twice, which shifts all draws a little."""
    low, middle, high = np.nanpercentile(values[1:], [2.5, 50, 97.5])
    seen = float(values[0])
    return Interval(seen, float(max(0.0, seen + low - middle)), float(min(1.0, seen + high - middle)))
