"""Detection of labels that are probably wrong, from predictions of networks that were not trained on the images.

C. Northcutt et al., Confident learning: estimating uncertainty in dataset labels, 2021 (arXiv:1911.00068).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from planish.evaluation.metrics.classification import Labels
from planish.evaluation.statistics.intervals import Floats


def suspected_labels(probs: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Labels, Labels]:
    """Return the images whose label is probably wrong, the most suspicious first, and the most likely class of each.

    The self-confidence of a class is the mean probability of that class over its images; networks are more confident about some classes
    than about others. A label is suspected if its probability is below the self-confidence of its class, while the probability of the most
    likely class is at least the self-confidence of that class. Images are sorted by the difference of these two probabilities.

    Args:
        probs: ``(N, classes)``, predicted by networks that were not trained on the image.
        targets: given labels, class indices ``(N,)``.

    Returns:
        Indices of the suspected images ``(S,)`` and their most likely classes ``(S,)``.
    """
    p, labels = np.asarray(probs, np.float64), np.asarray(targets, np.int64)
    given = p[np.arange(len(p)), labels]
    likeliest = p.argmax(axis=1)
    own = own_confidence(p, labels)
    highest = p.max(axis=1)
    found = np.flatnonzero((likeliest != labels) & (given < own[labels]) & (highest >= own[likeliest]))
    order = np.argsort(-(highest - given)[found], kind="stable")
    return found[order], likeliest[found[order]]


def own_confidence(probs: Floats, targets: Labels) -> Floats:
    """Return the mean probability of the given label over the images of each class, ``(classes,)``; 1 for a class without images."""
    counts = np.bincount(targets, minlength=probs.shape[1])
    sums = np.bincount(targets, weights=probs[np.arange(len(probs)), targets], minlength=probs.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
