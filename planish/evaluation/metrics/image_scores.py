"""Metrics of single-label classification as scores of images, for paired comparisons; scikit-learn's definitions.

The mean of the scores is the metric, on the 0..1 scale or in nats. For metrics that are not means over images, a score is the metric plus
the image's influence on it (F. R. Hampel, The influence curve and its role in robust estimation, JASA 1974), so that the standard error of
the mean, and a bootstrap over images, are those of the metric. Metrics are named as in ``classification_metrics``; ``recall:hat`` is the
recall of the class ``hat``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.errors import DataError
from planish.evaluation.metrics.classification import auroc_influence, checked, log_losses, probabilities
from planish.evaluation.metrics.thresholds import at_threshold
from planish.evaluation.statistics.intervals import Floats
from planish.measurement import Measurement

OF_CLASS = ("recall", "precision", "f1")
"""Metrics of a single class."""
CLASS_AVERAGES = ("balanced_accuracy", "f1_macro")
"""Metrics of counts in which all classes weigh alike, however frequent they are."""

Labels = npt.NDArray[np.int64]


def image_scores(metric: str, logits: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str]) -> Floats:
    """Return one score per image, float64 ``(N,)``, whose mean is the metric.

    Args:
        metric: ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``auroc_macro``, ``log_loss``, ``recall:CLASS``, ``precision:CLASS`` or
            ``f1:CLASS``.
        logits: ``(N, classes)``.
        targets: class indices ``(N,)``.
        class_names: in the order of the logits.

    Raises:
        ModelError: the probabilities are needed, and the outputs contain NaN or infinity, or are not one logit per class.
    """
    if metric in ("log_loss", "auroc_macro"):
        scores, labels = checked(logits, targets, len(class_names))
        if metric == "log_loss":
            return log_losses(scores, labels)
        value, influence = auroc_influence(probabilities(scores), labels)
        return np.asarray(value + influence)
    preds, labels = np.asarray(logits).argmax(axis=1), np.asarray(targets, dtype=np.int64)
    if metric == "accuracy":
        return np.asarray(preds == labels, dtype=np.float64)
    kind, _, name = metric.partition(":")
    if name:
        number = list(class_names).index(name)
        return _of_class(kind, preds == number, labels == number)
    return (_balanced_accuracy if metric == "balanced_accuracy" else _macro_f1)(preds, labels, len(class_names))


def class_metric(metric: str, logits: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str]) -> Measurement:
    """Return a metric of a single class, such as ``recall:hat``, with its interval, in percent; arguments are those of ``image_scores``."""
    scores, labels = checked(logits, targets, len(class_names))
    kind, _, name = metric.partition(":")
    number = list(class_names).index(name)
    return replace(at_threshold(0.5, scores.argmax(axis=1) == number, labels == number)[kind], name=metric, n=len(labels))


def guessing_score(metric: str, targets: npt.ArrayLike, class_names: Sequence[str]) -> float:
    """Return the metric of a model that guesses without using the images, on the scale of ``image_scores``.

    It predicts the most frequent class for ``accuracy``, the class itself for ``f1:CLASS``, and otherwise draws classes, or gives
    probabilities, by their shares in the targets.

    Raises:
        DataError: the metric is not defined, because there is no image of its class, or only one class.
    """
    counts = np.bincount(np.asarray(targets), minlength=len(class_names))
    shares = counts[counts > 0] / counts.sum()
    kind, _, name = metric.partition(":")
    if name:
        share = float(counts[list(class_names).index(name)] / counts.sum())
        if not share:
            raise DataError(f"no image of the class {name!r}", f"its {kind} is of its images", "choose another --metric, or add images")
        return 2 * share / (1 + share) if kind == "f1" else share
    if metric == "auroc_macro":
        if len(shares) < 2:
            raise DataError("images of one class only", "AUROC is of two or more classes", "choose another --metric, or add images")
        return 0.5
    if metric == "log_loss":
        return float(-(shares * np.log(shares)).sum())
    return float(shares.max()) if metric == "accuracy" else 1 / len(shares)


def effective_images(metric: str, targets: npt.ArrayLike, class_names: Sequence[str]) -> float | None:
    """Return the number of images that a metric of counts rests on: those of its class, or Kish's effective sample size for all classes.

    With averages over classes, an image of a rare class weighs more, and the metric is as uncertain as the accuracy on fewer images
    (L. Kish, Survey sampling, 1965).

    Returns:
        None for metrics of ranks and probabilities, and for ``accuracy``, of which all images count alike.
    """
    counts = np.bincount(np.asarray(targets), minlength=len(class_names))
    _, _, name = metric.partition(":")
    if name:
        return float(counts[list(class_names).index(name)])
    if metric not in CLASS_AVERAGES:
        return None
    present = counts[counts > 0]
    return float(len(present) ** 2 / (1 / present).sum())


def _of_class(kind: str, predicted: npt.NDArray[np.bool_], actual: npt.NDArray[np.bool_]) -> Floats:
    """Return the scores for ``hits / whole``, where both are sums over images; 0 if ``whole`` is."""
    hits = np.asarray(predicted & actual, dtype=np.float64)
    parts = {"recall": actual.astype(np.float64), "precision": predicted.astype(np.float64), "f1": (predicted + actual.astype(int)) / 2}
    return _ratio(hits, np.asarray(parts[kind], dtype=np.float64))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return the scores for ``part.sum() / whole.sum()``, both ``(N,)``."""
    total = whole.sum()
    if not total:
        return np.zeros(len(part))
    value = part.sum() / total
    return np.asarray(value + len(part) / total * (part - value * whole))


def _balanced_accuracy(preds: Labels, labels: Labels, classes: int) -> Floats:
    counts = np.bincount(labels, minlength=classes)
    right = preds == labels
    recall = np.bincount(labels, weights=right, minlength=classes) / np.maximum(counts, 1)
    present = int((counts > 0).sum())
    return np.asarray(recall.sum() / present + len(labels) / present * (right - recall[labels]) / counts[labels])


def _macro_f1(preds: Labels, labels: Labels, classes: int) -> Floats:
    sizes = np.bincount(labels, minlength=classes) + np.bincount(preds, minlength=classes)
    right = np.asarray(preds == labels, dtype=np.float64)
    f1 = 2 * np.bincount(labels, weights=right, minlength=classes) / np.maximum(sizes, 1)
    present = int((sizes > 0).sum())
    influence: Any = sum((right - f1[each]) / sizes[each] for each in (labels, preds))
    return np.asarray(f1.sum() / present + len(labels) / present * influence)
