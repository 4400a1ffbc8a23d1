"""COCO's mean average precision and recall of boxes or masks, with 95% confidence intervals over images.

Intervals are bootstrapped over images with 200 resamples: a resample is a weight per image, and all resamples are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from planish.errors import ModelError
from planish.evaluation.metrics.classification import percent
from planish.evaluation.metrics.matching import COCO_MAX_DETECTIONS, RANGES, THRESHOLDS, Flags, Floats, Matches, compute_overlaps, match
from planish.evaluation.statistics.intervals import Interval, known_mean
from planish.measurement import Measurement

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.data.targets.objects import Objects

_RECALLS = np.linspace(0, 1, 101)
_RESAMPLES = 200
_GROUPS = 100  # maximum number of groups of images of the jackknife


def metric_name(name: str, *, uncapped: bool) -> str:
    """Return the name of a metric, with the prefix ``uncapped_`` if all detections count instead of COCO's 100 per image and class."""
    return f"uncapped_{name.removesuffix(f'_{COCO_MAX_DETECTIONS}')}" if uncapped else name


def map_names() -> list[str]:
    """Return the names of the mean average precision over all IoU thresholds, and at each one: ``map``, ``map_50``, ``map_55``, ..."""
    return ["map", *(f"map_{round(100 * threshold)}" for threshold in THRESHOLDS)]


def _at(metric: str, precision: Floats) -> Floats:
    """Return the part of ``average_precision`` ``(R, classes, T)`` that a metric of ``map_names`` is the mean of."""
    place = map_names().index(metric)
    return precision[:, :, place - 1 : place] if place else precision


def detection_metrics(
    outputs: Outputs,
    targets: Sequence[Objects],
    class_names: Sequence[str],
    *,
    masks: bool = False,
    uncapped: bool = False,
    primary: str = "map",
) -> dict[str, Measurement]:
    """Return ``map``, ``map_50``, ``map_75``, ``mar_100``, and ``map_small``, ``map_medium``, ``map_large`` if there are such objects.

    Metrics of masks are named ``mask_map`` and so on and come first; uncapped metrics are named ``uncapped_map``, ``uncapped_mar``,
    ``mask_uncapped_map`` and so on. All are in percent.

    Args:
        outputs: ``boxes``, ``scores``, ``labels`` and, for masks, ``masks``; see ``matching.compute_overlaps``.
        targets: objects of each image.
        class_names: labels are indices into them. Classes without objects do not count.
        masks: also evaluate masks.
        uncapped: count all detections instead of COCO's 100 per image and class, for images with more objects than that.
        primary: the first metric, one of ``map_names``.

    Raises:
        ModelError: scores are NaN.
    """
    if bad := sum(bool(np.isnan(scores).any()) for scores in outputs["scores"]):
        raise ModelError(f"the model's scores are NaN for {bad} of {len(targets)} images", "its weights or its arithmetic overflowed")
    found: list[Measurement] = []
    n = len(targets)
    weights = bootstrap_counts(n)
    for kind in ["mask_", ""] if masks else [""]:
        images = compute_overlaps(outputs, targets, masks=kind == "mask_")
        matches = match(images, uncapped=uncapped)
        precision = average_precision(matches, len(class_names), weights)
        of = {name: _at(name, precision) for name in dict.fromkeys((primary, "map", "map_50", "map_75"))}
        of["mar_100"] = _recall(matches, len(class_names), weights)
        for size in list(RANGES)[1:]:
            of[f"map_{size}"] = average_precision(match(images, size, uncapped=uncapped), len(class_names), weights)
        found += [
            percent(kind + metric_name(name, uncapped=uncapped), n, _interval(known_mean(values)))
            for name, values in of.items()
            if not np.isnan(values[0]).all()
        ]
    first = f"{'mask_' * masks}{metric_name(primary, uncapped=uncapped)}"
    return {m.name: m for m in found} or {first: percent(first, n, Interval(0.0, 0.0, 1.0))}


def average_precision_by_class(
    outputs: Outputs, targets: Sequence[Objects], class_names: Sequence[str], *, masks: bool = False, uncapped: bool = False
) -> dict[str, Measurement]:
    """Return the average precision of each class that has objects, in percent; ``n`` is the number of its objects."""
    matches, weights = match(compute_overlaps(outputs, targets, masks=masks), uncapped=uncapped), bootstrap_counts(len(targets))
    precision = average_precision(matches, len(class_names), weights)
    counts = np.bincount(matches.object_label, minlength=len(class_names))
    return {
        name: percent("average_precision", int(counts[i]), _interval(known_mean(precision[:, i])))
        for i, name in enumerate(class_names)
        if counts[i]
    }


def detection_scores(
    outputs: Outputs,
    targets: Sequence[Objects],
    class_names: Sequence[str],
    *,
    masks: bool = False,
    uncapped: bool = False,
    metric: str = "map",
) -> Floats:
    """Return one score per image ``(N,)``, on the 0..1 scale, whose mean and standard error are those of a metric of ``map_names``.

    The scores are jackknife pseudo-values (J. Tukey 1958): ``g m - (g - 1) m_without``. With more than a hundred images, groups of images
    are left out; each image gets the value of its group, scaled around the mean so that the standard error of the mean is right.
    """
    n = len(targets)
    groups = np.arange(n) % min(n, _GROUPS)
    count = int(groups.max()) + 1
    weights = np.concatenate([np.ones((1, n)), groups[None] != np.arange(count)[:, None]]).astype(np.float64)
    matches = match(compute_overlaps(outputs, targets, masks=masks), uncapped=uncapped)
    values = np.nan_to_num(known_mean(_at(metric, average_precision(matches, len(class_names), weights))))
    whole, without = values[0], values[1:]
    if count < 2:
        return np.full(n, whole)
    pseudo = count * whole - (count - 1) * without
    spread = (pseudo - pseudo.mean())[groups] * np.sqrt(n / count)
    return np.asarray(whole + spread - spread.mean())


def average_precision(matches: Matches, classes: int, weights: Floats) -> Floats:
    """Return the average precision of each resample, class and IoU threshold, ``(R, classes, T)``; NaN for classes without objects.

    As in COCO, precision is made monotonically decreasing and sampled at 101 recalls.

    Args:
        matches: matches of all images.
        classes: number of classes.
        weights: how often each image occurs in each resample ``(R, N)``.
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
    """Return the mean precision over the 101 recalls for each resample ``(R,)``."""
    known = total > 0
    result = np.where(known, 0.0, np.nan)
    hits = np.flatnonzero(found & ~ignored)
    if not len(hits):
        return result
    # precision rises only at true positives, and detections after the last one have no effect
    last = hits[-1] + 1
    counts = ~ignored[:last]
    right = np.cumsum(weights[:, :last] * (found[:last] & counts), axis=1)
    shown = np.cumsum(weights[:, :last] * counts, axis=1)
    right, shown = right[:, hits], shown[:, hits]
    precision = right / (shown + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # a true positive gives the precision at the recalls that are first reached with it
    reached = np.searchsorted(_RECALLS, right[known] / total[known, None], side="right")
    result[known] = (precision[known] * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
    return result


def _recall(matches: Matches, classes: int, weights: Floats) -> Floats:
    """Return the recall over all detections ``(R, classes, T)``."""
    result = np.full((len(weights), classes, len(THRESHOLDS)), np.nan)
    for label in np.unique(matches.object_label):
        rows = matches.label == label
        total = weights[:, matches.object_image[matches.object_label == label]].sum(axis=1)
        right = weights[:, matches.image[rows]] @ (matches.found[:, rows] & ~matches.ignored[:, rows]).T
        result[:, label] = np.divide(right, total[:, None], out=np.full_like(right, np.nan), where=total[:, None] > 0)
    return result


def bootstrap_counts(n: int) -> Floats:
    """Return how often each image occurs in each resample ``(1 + resamples, n)``; the first row is the original sample."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.ones((1, n)), drawn]).astype(np.float64)


def _interval(values: Floats) -> Interval:
    """Return the bootstrap interval, centred on the estimate: duplicated images duplicate their detections, which biases all resamples."""
    low, middle, high = np.nanpercentile(values[1:], [2.5, 50, 97.5])
    seen = float(values[0])
    return Interval(seen, float(max(0.0, seen + low - middle)), float(min(1.0, seen + high - middle)))
