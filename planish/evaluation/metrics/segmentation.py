"""Mean intersection over union and its relatives, with 95% intervals over images.

All is made of each image's counts of target class by predicted class, so that a draw of images is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import Floats, Interval, known_mean
from planish.measurement import Measurement

if TYPE_CHECKING:
    from planish.artifact import Outputs

IGNORED = 255
_RESAMPLES = 1000


def confusions(classes: Any, targets: Any, number: int) -> npt.NDArray[np.int64]:
    """Pixels by target and predicted class, of each image ``(N, number, number)``.

    Args:
        classes: as predicted, ``(N, h, w)``; brought to the size of the target by the nearest pixel.
        targets: label maps ``(H, W)``, one per image; 255 is left out.
        number: of classes.
    """
    found = np.zeros((len(targets), number, number), np.int64)
    for i in range(len(targets)):
        expected = np.asarray(targets[i])
        predicted = as_large_as(classes[i], expected)
        counted = expected != IGNORED
        flat = expected[counted].astype(np.int64) * number + predicted[counted]
        found[i] = np.bincount(flat, minlength=number * number).reshape(number, number)
    return found


def as_large_as(classes: Any, target: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A predicted map ``(h, w)`` brought to the size of its target by the nearest pixel."""
    predicted = np.asarray(classes, np.uint8)
    if predicted.shape == target.shape:
        return predicted
    return np.asarray(Image.fromarray(predicted).resize(target.shape[::-1], Image.Resampling.NEAREST))


def bootstrap_counts(n: int) -> npt.NDArray[np.int64]:
    """How often each image is drawn: once, and in the draws of a bootstrap ``(R, n)``."""
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return np.concatenate([np.ones((1, n), np.int64), drawn])


def segmentation_metrics(outputs: Outputs, targets: Any, class_names: Sequence[str]) -> dict[str, Measurement]:
    """``miou``, ``dice``, ``pixel_accuracy``, in percent: the first two are means over the classes that are there, or are predicted.

    Args:
        outputs: ``classes`` ``(N, h, w)``.
        targets: label maps, one per image.
        class_names: in the order of the labels.
    """
    each = confusions(outputs["classes"], targets, len(class_names))
    n = len(each)
    total = np.tensordot(bootstrap_counts(n), each, axes=1)
    iou = _iou(total)
    right = np.trace(total, axis1=1, axis2=2) / np.maximum(1, total.sum((1, 2)))
    of = {"miou": known_mean(iou), "dice": known_mean(2 * iou / (1 + iou)), "pixel_accuracy": right}
    return {name: percent(name, n, _interval(values)) for name, values in of.items()}


def iou_by_class(outputs: Outputs, targets: Any, class_names: Sequence[str]) -> dict[str, Measurement]:
    """Intersection over union of each class that is there, or is predicted, in percent; ``n`` is the number of images with it."""
    each = confusions(outputs["classes"], targets, len(class_names))
    iou = _iou(np.tensordot(bootstrap_counts(len(each)), each, axes=1))
    shown = (each.sum(2) > 0).sum(0)
    return {name: percent("iou", int(shown[i]), _interval(iou[:, i])) for i, name in enumerate(class_names) if not np.isnan(iou[0, i])}


def segmentation_scores(outputs: Outputs, targets: Any, class_names: Sequence[str]) -> Floats:
    """One number per image ``(N,)``, on the 0..1 scale, whose mean is the mean IoU: jackknife pseudo-values (J. Tukey 1958)."""
    each = confusions(outputs["classes"], targets, len(class_names))
    total, n = each.sum(0), len(each)
    whole = float(known_mean(_iou(total[None]))[0])
    if n < 2:
        return np.full(n, whole)
    without = np.nan_to_num(known_mean(_iou(total[None] - each)), nan=whole)
    pseudo = n * whole - (n - 1) * without
    return np.asarray(pseudo - pseudo.mean() + whole)


def _iou(total: Any) -> Floats:
    """Of each draw and class ``(R, classes)``."""
    return intersection_over_union(np.diagonal(total, axis1=1, axis2=2).astype(np.float64), total.sum(2), total.sum(1))


def intersection_over_union(right: Any, expected: Any, predicted: Any) -> Floats:
    """Of counts of pixels that are right, of a class, and said to be of it; NaN where a class is neither there nor predicted."""
    union = expected + predicted - right
    return np.asarray(np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0))


def _interval(values: Floats) -> Interval:
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
