"""Mean intersection over union and related metrics, with 95% confidence intervals over images.

All are computed from the confusion matrix of each image, so that a bootstrap resample is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.errors import DataError
from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import Floats, Interval, known_mean
from planish.measurement import Measurement

if TYPE_CHECKING:
    from planish.artifact import Outputs

IGNORED = 255
METRICS = ("miou", "dice", "pixel_accuracy")
OF_CLASS = "iou"
"""The metric of a single class, named ``iou:CLASS``."""
_RESAMPLES = 1000


def guessing_score(metric: str, targets: Any, class_names: Sequence[str]) -> float:
    """Return the metric of assigning one class to every pixel: the class of ``iou:CLASS``, otherwise the most frequent one.

    Args:
        metric: ``miou``, ``dice``, ``pixel_accuracy`` or ``iou:CLASS``.
        targets: label maps, one per image.
        class_names: in the order of the labels.

    Raises:
        DataError: no pixel has the class.
    """
    counts = np.sum([np.bincount(np.asarray(targets[i]).ravel(), minlength=256)[:IGNORED] for i in range(len(targets))], axis=0)
    _, _, name = metric.partition(":")
    number = list(class_names).index(name) if name else int(counts.argmax())
    share = float(counts[number] / max(1, counts.sum()))
    if name and not share:
        raise DataError(f"no pixel of the class {name!r}", "its IoU is of its pixels", "choose another --metric, or add images")
    if name or metric == "pixel_accuracy":
        return share
    return (2 * share / (1 + share) if metric == "dice" else share) / max(1, int(np.count_nonzero(counts)))


def confusions(classes: Any, targets: Any, number: int) -> npt.NDArray[np.int64]:
    """Return the confusion matrix of each image, in pixels ``(N, number, number)``: rows are targets, columns are predictions.

    Args:
        classes: predicted label maps ``(N, h, w)``; resized to the size of the target (nearest neighbour).
        targets: label maps ``(H, W)``, one per image; pixels with 255 are ignored.
        number: number of classes.
    """
    found = np.zeros((len(targets), number, number), np.int64)
    for i in range(len(targets)):
        expected = np.asarray(targets[i])
        predicted = resize_to_target(classes[i], expected)
        counted = expected != IGNORED
        flat = expected[counted].astype(np.int64) * number + predicted[counted]
        found[i] = np.bincount(flat, minlength=number * number).reshape(number, number)
    return found


def resize_to_target(classes: Any, target: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize a predicted label map ``(h, w)`` to the size of its target (nearest neighbour)."""
    predicted = np.asarray(classes, np.uint8)
    if predicted.shape == target.shape:
        return predicted
    return np.asarray(Image.fromarray(predicted).resize(target.shape[::-1], Image.Resampling.NEAREST))


def bootstrap_counts(n: int) -> npt.NDArray[np.int64]:
    """Return how often each image occurs in each bootstrap resample ``(R, n)``; the first row is the original sample."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.ones((1, n), np.int64), drawn])


def segmentation_metrics(outputs: Outputs, targets: Any, class_names: Sequence[str], primary: str = "miou") -> dict[str, Measurement]:
    """Return ``miou``, ``dice`` and ``pixel_accuracy`` in percent; the first two are means over classes in the targets or predictions.

    Args:
        outputs: ``classes`` ``(N, h, w)``.
        targets: label maps, one per image.
        class_names: in the order of the labels.
        primary: the first metric: one of these, or ``iou:CLASS``, which is then added; 0 [0, 100] if the class does not occur.
    """
    each = confusions(outputs["classes"], targets, len(class_names))
    n = len(each)
    total = np.tensordot(bootstrap_counts(n), each, axes=1)
    found = {}
    for name in dict.fromkeys((primary, *METRICS)):
        values = _values(name, total, class_names)
        found[name] = percent(name, n, Interval(0.0, 0.0, 1.0) if np.isnan(values[0]) and ":" in name else _interval(values))
    return found


def _values(metric: str, total: Any, class_names: Sequence[str]) -> Floats:
    """Return a metric of each resample ``(R,)`` from its confusion matrices ``(R, classes, classes)``; NaN if it is not defined."""
    if metric == "pixel_accuracy":
        return np.asarray(np.trace(total, axis1=1, axis2=2) / np.maximum(1, total.sum((1, 2))))
    iou = _iou(total)
    if metric.startswith(f"{OF_CLASS}:"):
        return iou[:, list(class_names).index(metric.partition(":")[2])]
    return known_mean(2 * iou / (1 + iou) if metric == "dice" else iou)


def iou_by_class(outputs: Outputs, targets: Any, class_names: Sequence[str]) -> dict[str, Measurement]:
    """Return the IoU of each class in the targets or predictions, in percent; ``n`` is the number of images whose target contains it."""
    each = confusions(outputs["classes"], targets, len(class_names))
    iou = _iou(np.tensordot(bootstrap_counts(len(each)), each, axes=1))
    shown = (each.sum(2) > 0).sum(0)
    return {name: percent("iou", int(shown[i]), _interval(iou[:, i])) for i, name in enumerate(class_names) if not np.isnan(iou[0, i])}


def segmentation_scores(outputs: Outputs, targets: Any, class_names: Sequence[str], metric: str = "miou") -> Floats:
    """Return one score per image ``(N,)``, on the 0..1 scale, whose mean is the metric: jackknife pseudo-values (J. Tukey 1958).

    1 for all if the metric is that of a class that is neither in the targets nor predicted.
    """
    each = confusions(outputs["classes"], targets, len(class_names))
    total, n = each.sum(0), len(each)
    whole = float(_values(metric, total[None], class_names)[0])
    if np.isnan(whole) and ":" in metric:
        return np.ones(n)
    if n < 2:
        return np.full(n, whole)
    without = np.nan_to_num(_values(metric, total[None] - each, class_names), nan=whole)
    pseudo = n * whole - (n - 1) * without
    return np.asarray(pseudo - pseudo.mean() + whole)


def _iou(total: Any) -> Floats:
    """Return the IoU of each resample and class ``(R, classes)``."""
    return intersection_over_union(np.diagonal(total, axis1=1, axis2=2).astype(np.float64), total.sum(2), total.sum(1))


def intersection_over_union(right: Any, expected: Any, predicted: Any) -> Floats:
    """Return the IoU from counts of correct, target and predicted pixels of a class; NaN if there are no target or predicted pixels."""
    union = expected + predicted - right
    return np.asarray(np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0))


def _interval(values: Floats) -> Interval:
    """Return the percentile interval, extended to include the estimate ``values[0]``, which classes in few images can bias out of it."""
    value, (low, high) = float(values[0]), np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))
