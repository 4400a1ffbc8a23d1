"""Metrics of single-label classification, each with its 95% interval. Plain arrays in; conventions are scikit-learn's.

Shares are given in percent. Counts-based averages are bootstrapped over images by drawing whole confusion matrices, which takes the time
of a matrix product instead of a loop over images; AUROC has DeLong's interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse, special, stats

from planish.errors import ModelError
from planish.evaluation.statistics.intervals import Floats, Interval, bootstrap_mean, proportion
from planish.measurement import Measurement

Labels = npt.NDArray[np.int64]
_RESAMPLES = 1000
_BINS = 15


def classification_metrics(logits: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Measurement]:
    """All metrics of one split: accuracy first, then top-5 (with more than 5 classes), balanced accuracy, precision, recall and F1
    (macro, micro, weighted), AUROC (macro, one against the rest), log loss, calibration error.

    Args:
        logits: ``(N, classes)``.
        targets: class numbers ``(N,)``.
        class_names: in the order of the logits.

    Raises:
        ModelError: the outputs hold NaN, or are not one logit a class.
    """
    scores, labels = checked(logits, targets, len(class_names))
    n, preds = len(labels), scores.argmax(axis=1)
    probs = probabilities(scores)
    found = [percent("accuracy", n, share(preds == labels))]
    if len(class_names) > 5:
        found.append(percent("top5_accuracy", n, share(_in_top(scores, labels, 5))))
    found += [percent(name, n, interval) for name, interval in count_metrics(preds, labels, len(class_names)).items()]
    found.append(percent("auroc_macro", n, auroc(probs, labels)))
    found.append(nats("log_loss", n, log_loss(scores, labels)))
    found.append(percent("calibration_error", n, calibration_error(probs, labels), higher_is_better=False))
    return {m.name: m for m in found}


def per_class_accuracy(logits: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str]) -> dict[str, Measurement]:
    """Share of each class's images that were recognised (its recall), with Wilson's interval; ``n`` is the number of its images."""
    scores, labels = checked(logits, targets, len(class_names))
    right = scores.argmax(axis=1) == labels
    return {name: percent("accuracy", int((labels == i).sum()), share(right[labels == i])) for i, name in enumerate(class_names)}


def confusion_matrix(preds: npt.ArrayLike, targets: npt.ArrayLike, classes: int) -> Labels:
    """Counts ``(classes, classes)``: a row a target, a column a prediction."""
    flat = np.asarray(targets, dtype=np.int64) * classes + np.asarray(preds, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def probabilities(logits: npt.ArrayLike) -> Floats:
    """Softmax over the last axis."""
    return np.asarray(special.softmax(np.asarray(logits, dtype=np.float64), axis=-1))


def count_metrics(preds: Labels, targets: Labels, classes: int, seed: int = 0) -> dict[str, Interval]:
    """Balanced accuracy, precision, recall and F1 on the 0..1 scale, bootstrapped over images.

    Balanced accuracy averages over classes that occur among the targets, the macro averages over those that occur at all; a ratio whose
    denominator is 0 counts as 0.
    """
    flat, counts = np.unique(targets * classes + preds, return_counts=True)  # the occupied cells only: with 1000 classes most are empty
    rows, columns = flat // classes, flat % classes
    drawn = np.random.default_rng(seed).multinomial(len(targets), counts / len(targets), size=_RESAMPLES)
    cells = np.concatenate([counts[None], drawn]).astype(np.float64)  # the first row is what was really seen
    right = rows == columns

    def per_class(of: npt.NDArray[np.int64], values: Floats) -> Floats:
        member = sparse.csr_matrix((np.ones(len(of)), (of, np.arange(len(of)))), shape=(classes, len(of)))
        return np.asarray((member @ values.T).T)  # (1 + resamples, classes)

    hits, support, predicted = per_class(rows[right], cells[:, right]), per_class(rows, cells), per_class(columns, cells)
    precision, recall, f1 = _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)
    occurs = (support + predicted) > 0
    found = {"balanced_accuracy": _bootstrapped(_average(recall, support > 0))}
    for average, weights in (("macro", occurs), ("weighted", support)):
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            found[f"{name}_{average}"] = _bootstrapped(_average(values, weights))
    # every image has one target and one prediction, so all three micro averages are the share that is right
    return found | dict.fromkeys(("precision_micro", "recall_micro", "f1_micro"), share(preds == targets))


def auroc(probs: Floats, targets: Labels) -> Interval:
    """Area under the ROC curve, each class against the rest, averaged over classes that have both; 0.5 and no knowledge where none has.

    E. R. DeLong et al., Comparing the areas under two or more correlated receiver operating characteristic curves, Biometrics 1988.
    """
    areas, influence, n = [], np.zeros(len(targets)), len(targets)
    for i in range(probs.shape[1]):
        positive = targets == i
        p = int(positive.sum())
        if p in (0, n):
            continue
        ranks = stats.rankdata(probs[:, i])
        # the share of the other kind that each image is placed rightly against, ties counting half
        placed = np.empty(n)
        placed[positive] = (ranks[positive] - stats.rankdata(probs[positive, i])) / (n - p)
        placed[~positive] = 1 - (ranks[~positive] - stats.rankdata(probs[~positive, i])) / p
        area = placed[positive].mean()
        areas.append(area)
        influence += (placed - area) * np.where(positive, n / p, n / (n - p))
    if not areas:
        return Interval(0.5, 0.0, 1.0)
    value = float(np.mean(areas))
    half = 1.96 * float(np.sqrt(np.mean((influence / len(areas)) ** 2) / n))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def log_loss(logits: Floats, targets: Labels) -> Interval:
    """Mean of minus the logarithm of the probability given to the right class, in nats, bootstrapped over images."""
    return bootstrap_mean(-special.log_softmax(logits, axis=1)[np.arange(len(targets)), targets])


def calibration_error(probs: Floats, targets: Labels) -> Interval:
    """Expected calibration error over 15 bins of equal width: the mean distance between confidence and accuracy.

    Chance makes a distance of none, so the estimate tends to be too high. The lower end takes off all that chance may have added in bins
    whose sign is in doubt; a calibrated model's interval begins at 0.

    C. Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    n, bins = len(targets), confidence_bins(probs)
    gap = probs.max(axis=1) - (probs.argmax(axis=1) == targets)
    seen = np.bincount(bins, weights=gap, minlength=_BINS) / n
    covariance = (np.diag(np.bincount(bins, weights=gap**2, minlength=_BINS)) / n - np.outer(seen, seen)) / n
    sign, sure = np.sign(seen), seen**2 > 4 * np.diag(covariance)
    chance = np.random.default_rng(0).multivariate_normal(np.zeros(_BINS), covariance, _RESAMPLES)
    added = np.where(sure, sign * chance, np.abs(chance)).sum(axis=1)
    value = float(np.abs(seen).sum())
    high = value + 1.96 * max(0.0, float(sign @ covariance @ sign)) ** 0.5
    return Interval(value, max(0.0, value - float(np.percentile(added, 97.5))), min(1.0, high))


def confidence_bins(probs: Floats) -> Labels:
    """Which of 15 bins of equal width each image's highest probability lies in ``(N,)``; an edge belongs to the bin below it."""
    return np.asarray(np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], probs.max(axis=1)), dtype=np.int64)


def checked(logits: npt.ArrayLike, targets: npt.ArrayLike, classes: int) -> tuple[Floats, Labels]:
    """Arrays of the types that the metrics expect.

    Raises:
        ModelError: the outputs hold NaN, or are not one logit a class.
    """
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    if scores.shape != (len(labels), classes) or not len(labels):
        raise ModelError(f"the model's outputs are {scores.shape} for {len(labels)} images", f"classification needs logits (N, {classes})")
    if np.isnan(scores).any():
        bad = int(np.isnan(scores).any(axis=1).sum())
        raise ModelError(f"the model's outputs are NaN for {bad} of {len(labels)} images", "its weights or its arithmetic overflowed")
    return scores, labels


def _in_top(scores: Floats, labels: Labels, k: int) -> npt.NDArray[np.bool_]:
    """Of equal scores the later class comes first, as in scikit-learn."""
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) > labels[:, None]))
    return np.asarray(ahead.sum(axis=1) < k)


def share(right: npt.NDArray[np.bool_]) -> Interval:
    """How often ``right`` ``(N,)`` is true, with Wilson's interval, on the 0..1 scale; 0 and no knowledge where it is empty."""
    successes = int(right.sum())
    return Interval(successes / max(1, len(right)), *proportion(successes, len(right)))


def percent(name: str, n: int, interval: Interval, higher_is_better: bool = True, unit: str = "%") -> Measurement:
    """An interval on the 0..1 scale as a measurement in percent, or in points where it is a difference."""
    value, low, high = (100 * x for x in interval)
    return Measurement(name, value, unit, n, higher_is_better, low, high)


def nats(name: str, n: int, interval: Interval) -> Measurement:
    """A log loss as a measurement."""
    return Measurement(name, interval.value, "nats", n, False, interval.low, interval.high)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _bootstrapped(drawn: Floats) -> Interval:
    """Percentile interval; ``drawn[0]`` is the value itself, which the skew of many tiny classes must not leave outside."""
    value, (low, high) = float(drawn[0]), np.percentile(drawn[1:], [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _average(values: Floats, weights: npt.NDArray[Any]) -> Floats:
    return np.asarray((values * weights).sum(axis=1) / weights.sum(axis=1))
