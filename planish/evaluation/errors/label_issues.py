"""Which labels are probably wrong, from what networks say about images they have not seen.

C. Northcutt et al., Confident learning: estimating uncertainty in dataset labels, 2021 (arXiv:1911.00068).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from planish.evaluation.metrics.classification import Labels
from planish.evaluation.statistics.intervals import Floats


def suspected_labels(probs: npt.ArrayLike, targets: npt.ArrayLike) -> tuple[Labels, Labels]:
    """Images whose label is probably wrong, the most suspicious first, and the class that each probably is.

    A class's own confidence is the mean probability that its images get of being in it; networks are surer of some classes than of others.
    A label is suspected where its probability is below its class's own confidence, while that of the most likely class is at or above
    its own. They are in the order of how far the most likely class is ahead.

    Args:
        probs: ``(N, classes)``, of networks that were not trained on the image.
        targets: given labels, class numbers ``(N,)``.

    Returns:
        Positions of the suspects ``(S,)`` and their most likely classes ``(S,)``.
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
    """Mean probability of the given label over the images of each class, ``(classes,)``; 1 for a class without images."""
    counts = np.bincount(targets, minlength=probs.shape[1])
    sums = np.bincount(targets, weights=probs[np.arange(len(probs)), targets], minlength=probs.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
