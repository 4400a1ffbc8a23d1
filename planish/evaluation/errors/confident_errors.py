"""Which mistakes are worth looking at."""

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
        count: images.
        share: of all images with that label, in percent.
    """

    target: str
    prediction: str
    count: int
    share: Measurement


def worst_mistakes(logits: npt.ArrayLike, targets: npt.ArrayLike, most: int = 20) -> Labels:
    """Indices of the wrong predictions that the model is surest of, the surest first: wrong labels and odd images are found among them.

    Args:
        logits: ``(N, classes)``.
        targets: class numbers ``(N,)``.
        most: indices to return; fewer where there are fewer mistakes.

    Raises:
        ModelError: the logits hold NaN, or are not ``(N, classes)``.
    """
    scores, labels = checked(logits, targets, np.shape(logits)[-1])
    wrong = np.flatnonzero(scores.argmax(axis=1) != labels)
    surest_first = np.argsort(-probabilities(scores[wrong]).max(axis=1), kind="stable")
    return wrong[surest_first][:most]


def confusions(preds: npt.ArrayLike, targets: npt.ArrayLike, class_names: Sequence[str], most: int = 10) -> list[Confusion]:
    """The pairs of classes that are mixed up most often, the most frequent first; of equal ones that of the earlier target.

    Args:
        preds: class numbers ``(N,)``.
        targets: class numbers ``(N,)``.
        class_names: by number.
        most: pairs to return; fewer where fewer occur.
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
