"""Whether the classes of a data set are about equally frequent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ADJUSTED_METRIC = "balanced_accuracy"
"""The primary metric for which training adjusts the logits of unbalanced classes, unless it is set otherwise.

Logit adjustment is for this metric (Menon et al. 2021, arXiv:2007.07314). Accuracy loses by it, and macro F1 does not gain if the images
that it is measured on are as unbalanced as those of the training.
"""
UNBALANCED = 5.0  # ratio of the largest to the smallest class from which classes count as unbalanced


def class_ratio(counts: npt.ArrayLike) -> float:
    """Return the size of the largest class divided by that of the smallest; classes without images do not count.

    Args:
        counts: number of images of each class, ``(classes,)``.
    """
    present = np.asarray(counts)[np.asarray(counts) > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def describe_imbalance(targets: npt.ArrayLike, class_names: Sequence[str]) -> str:
    """Describe the largest and the smallest class: ``62 % of the training images are of good, 2.4 % of hole``; empty if balanced.

    Args:
        targets: class indices of the training images, ``(N,)``.
        class_names: the classes.
    """
    counts = np.bincount(np.asarray(targets), minlength=len(class_names))
    if class_ratio(counts) < UNBALANCED:
        return ""
    largest = int(counts.argmax())
    smallest = int(np.where(counts > 0, counts, counts.sum() + 1).argmin())
    most, least = (f"{100 * counts[i] / counts.sum():.2g} %" for i in (largest, smallest))
    return f"{most} of the training images are of {class_names[largest]}, {least} of {class_names[smallest]}"
