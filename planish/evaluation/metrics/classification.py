"""Metrics of single-label classification, each with a 95% confidence interval. Inputs are arrays; conventions are those of scikit-learn.

Proportions are given in percent. Averages based on counts are bootstrapped over images by resampling whole confusion matrices, which takes
one matrix product instead of a loop over images; AUROC has DeLong's interval.
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
    """Return all metrics of one split.

    Accuracy first, then top-5 accuracy (with more than 5 classes), balanced accuracy, precision, recall and F1 (macro, micro, weighted),
    AUROC (macro, one-vs-rest), log loss and calibration error.

    Args:
        logits: ``(N, classes)``.
        targets: class indices ``(N,)``.
        class_names: in the order of the logits.

    Raises:
        ModelError: the outputs contain NaN or infinity, or are not one logit per class.
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
    """Return the recall of each class, with Wilson's interval; ``n`` is the number of its images."""
    scores, labels = checked(logits, targets, len(class_names))
    right = scores.argmax(axis=1) == labels
    return {name: percent("accuracy", int((labels == i).sum()), share(right[labels == i])) for i, name in enumerate(class_names)}


def confusion_matrix(preds: npt.ArrayLike, targets: npt.ArrayLike, classes: int) -> Labels:
    """Return counts ``(classes, classes)``: rows are targets, columns are predictions."""
    flat = np.asarray(targets, dtype=np.int64) * classes + np.asarray(preds, dtype=np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def probabilities(logits: npt.ArrayLike) -> Floats:
    """Return the softmax over the last axis."""
    return np.asarray(special.softmax(np.asarray(logits, dtype=np.float64), axis=-1))


def count_metrics(preds: Labels, targets: Labels, classes: int, seed: int = 0) -> dict[str, Interval]:
    """Return balanced accuracy, precision, recall and F1 on the 0..1 scale, bootstrapped over images.

    Balanced accuracy averages over the classes that occur in the targets, macro averages over those that occur in targets or predictions; a
    ratio whose denominator is 0 counts as 0. If all predictions are right or all are wrong, every resample is like the original and would
    give an interval without width, so the intervals are those of the accuracy.
    """
    flat, counts = np.unique(targets * classes + preds, return_counts=True)  # non-zero cells only: with 1000 classes most are 0
    rows, columns = flat // classes, flat % classes
    drawn = np.random.default_rng(seed).multinomial(len(targets), counts / len(targets), size=_RESAMPLES)
    cells = np.concatenate([counts[None], drawn]).astype(np.float64)  # the first row holds the observed counts
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
    accuracy = share(preds == targets)
    if accuracy.value in (0, 1):
        found = dict.fromkeys(found, accuracy)
    # every image has one target and one prediction, so all three micro averages equal the accuracy
    return found | dict.fromkeys(("precision_micro", "recall_micro", "f1_micro"), accuracy)


def auroc(probs: Floats, targets: Labels) -> Interval:
    """Return the one-vs-rest AUROC, averaged over classes with both positives and negatives; 0.5 [0, 1] if there are none, or if
    all scores are equal.

    If all images are ranked correctly, DeLong's interval has no width, and Wilson's for the number of images is returned.

    E. R. DeLong et al., Comparing the areas under two or more correlated receiver operating characteristic curves, Biometrics 1988.
    """
    value, influence = auroc_influence(probs, targets)
    n = len(targets)
    if not influence.any() and value == 0.5:
        return Interval(0.5, 0.0, 1.0)
    if value in (0, 1):
        return Interval(value, *proportion(int(value) * n, n))
    half = 1.96 * float(np.sqrt(np.mean(influence**2) / n))
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def auroc_influence(probs: Floats, targets: Labels) -> tuple[float, Floats]:
    """Return the macro one-vs-rest AUROC, and the influence of each image on it ``(N,)``, whose mean is 0; see ``auroc``.

    0.5 without influence if no class has both positives and negatives.
    """
    areas, influence, n = [], np.zeros(len(targets)), len(targets)
    for i in range(probs.shape[1]):
        positive = targets == i
        p = int(positive.sum())
        if p in (0, n):
            continue
        ranks = stats.rankdata(probs[:, i])
        # for each image, the share of images of the opposite label that are ranked correctly relative to it; ties count half
        placed = np.empty(n)
        placed[positive] = (ranks[positive] - stats.rankdata(probs[positive, i])) / (n - p)
        placed[~positive] = 1 - (ranks[~positive] - stats.rankdata(probs[~positive, i])) / p
        area = placed[positive].mean()
        areas.append(area)
        influence += (placed - area) * np.where(positive, n / p, n / (n - p))
    return (float(np.mean(areas)), influence / len(areas)) if areas else (0.5, influence)


def log_loss(logits: Floats, targets: Labels) -> Interval:
    """Return the mean negative log-likelihood of the targets, in nats, bootstrapped over images."""
    return bootstrap_mean(log_losses(logits, targets))


def log_losses(logits: Floats, targets: Labels) -> Floats:
    """Return the negative log-likelihood of the target of each image ``(N,)``, in nats."""
    return np.asarray(-special.log_softmax(logits, axis=1)[np.arange(len(targets)), targets])


def kl_divergence(reference: npt.ArrayLike, logits: npt.ArrayLike) -> Measurement:
    """Return the mean KL divergence of a model's probabilities from those of a reference, in nats, bootstrapped over images.

    Args:
        reference: logits of the reference ``(N, classes)``.
        logits: logits of the model on the same images.
    """
    log_p, log_q = (special.log_softmax(np.asarray(each, dtype=np.float64), axis=1) for each in (reference, logits))
    return nats("kl_divergence", len(log_p), bootstrap_mean((np.exp(log_p) * (log_p - log_q)).sum(axis=1)))


def calibration_error(probs: Floats, targets: Labels) -> Interval:
    """Return the expected calibration error over 15 bins of equal width: the mean absolute gap between confidence and accuracy.

    Noise makes the gap of a bin positive even if the model is calibrated, so the estimate is biased upwards. The lower end of the interval
    subtracts what noise may have added in bins whose sign is uncertain; for a calibrated model it is 0.

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
    """Return the index of the confidence bin of each image ``(N,)``, out of 15 bins of equal width; an edge belongs to the lower bin."""
    return np.asarray(np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], probs.max(axis=1)), dtype=np.int64)


def checked(logits: npt.ArrayLike, targets: npt.ArrayLike, classes: int) -> tuple[Floats, Labels]:
    """Validate logits and targets, and return them as float64 and int64 arrays.

    Raises:
        ModelError: the outputs contain NaN or infinity, or are not one logit per class.
    """
    scores, labels = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    if scores.shape != (len(labels), classes) or not len(labels):
        raise ModelError(f"the model's outputs are {scores.shape} for {len(labels)} images", f"classification needs logits (N, {classes})")
    if bad := int((~np.isfinite(scores).all(axis=1)).sum()):
        what = "NaN" if np.isnan(scores).any() else "infinite"
        raise ModelError(f"the model's outputs are {what} for {bad} of {len(labels)} images", "its weights or its arithmetic overflowed")
    return scores, labels


def _in_top(scores: Floats, labels: Labels, k: int) -> npt.NDArray[np.bool_]:
    """Whether each target is among the ``k`` highest scores; ties are broken in favour of the later class, as in scikit-learn."""
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) > labels[:, None]))
    return np.asarray(ahead.sum(axis=1) < k)


def share(right: npt.NDArray[np.bool_]) -> Interval:
    """Return the proportion of true values in ``right`` ``(N,)``, with Wilson's interval, on the 0..1 scale; 0 [0, 1] if it is empty."""
    successes = int(right.sum())
    return Interval(successes / max(1, len(right)), *proportion(successes, len(right)))


def percent(name: str, n: int, interval: Interval, higher_is_better: bool = True, unit: str = "%") -> Measurement:
    """Convert an interval on the 0..1 scale to a measurement in percent, or, for a difference, in points."""
    value, low, high = (100 * x for x in interval)
    return Measurement(name, value, unit, n, higher_is_better, low, high)


def nats(name: str, n: int, interval: Interval) -> Measurement:
    """Convert a log loss or a divergence to a measurement."""
    return Measurement(name, interval.value, "nats", n, False, interval.low, interval.high)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _bootstrapped(drawn: Floats) -> Interval:
    """Return the percentile interval, extended to include the estimate ``drawn[0]``, which many rare classes can bias out of it."""
    value, (low, high) = float(drawn[0]), np.percentile(drawn[1:], [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _average(values: Floats, weights: npt.NDArray[Any]) -> Floats:
    return np.asarray((values * weights).sum(axis=1) / weights.sum(axis=1))
