"""The most confident errors, and the most frequent confusions between classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planish.evaluation.metrics.classification import Labels, checked, confusion_matrix, percent, probabilities
from planish.evaluation.statistics.intervals import Interval, proportion
from planish.measurement import Measurement


@dataclass(frozen=True)
class Confusion:
    """Two classes that are confused.

    Args:
        target: the label.
        prediction: the predicted class.
        count: number of images.
        share: share of all images with that label, in percent.
    """

    target: str
    prediction: str
    count: int
    share: Measurement


def worst_mistakes(logits: npt.ArrayLike, targets: npt.ArrayLike, most: int = 20) -> Labels:
    """Return the indices of the most confident errors, the most confident first; they often reveal wrong labels and unusual images.

    Args:
        logits: ``(N, classes)``.
        targets: class indices ``(N,)``.
        most: maximum number of indices.

    Raises:
        ModelError: the logits contain NaN or infinity, or are not ``(N, classes)``.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    surest_first = np.argsort(-probabilities(scores[wrong]).max(axis=1), kind="stable")
    return wrong[surest_first][:most]


def confusions(preds: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str], most: int = 10) -> list[Confusion]:
    """Return the pairs of classes that are confused most often, the most frequent first; ties are in the order of the target.

    Args:
        preds: class indices ``(N,)``.
        targets: class indices ``(N,)``.
        class_names: names in the order of the indices.
        most: maximum number of pairs.
    """
    counts = confusion_matrix(preds, targets, len(class_names))
    images = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    found = []
    for target, prediction in zip(*np.unravel_index(order, counts.shape), strict=True):
        count, n = int(counts[target, prediction]), int(images[target])
        if count:
            share = percent("confused", n, Interval(count / n, *proportion(count, n)), higher_is_better=False)
            found.append(Confusion(class_names[target], class_names[prediction], count, share))
    return found
