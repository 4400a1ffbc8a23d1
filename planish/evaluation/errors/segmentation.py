"""Kinds of segmentation errors and their costs: as for detections, the gain from fixing one kind alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from planish.data.sources.source import BACKGROUND
from planish.evaluation.errors.costs import costs
from planish.evaluation.metrics.segmentation import IGNORED, bootstrap_counts, intersection_over_union, resize_to_target
from planish.evaluation.statistics.intervals import Floats, known_mean

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.measurement import Measurement

KINDS = ("borders", "mistaken_classes", "invented_pixels", "missed_pixels")
_BORDER = 0.01  # half-width of the border between two classes, relative to the larger side of the image; at least one pixel


def segmentation_errors(
    outputs: Outputs, targets: Any, class_names: Sequence[str], *, against: Outputs | None = None
) -> dict[str, Measurement]:
    """Return for each of ``KINDS`` the points of mIoU that fixing all such errors would gain, with an interval over images.

    ``n`` is the number of pixels. Without a class ``background`` there are no invented or missed pixels, and so only two kinds.

    Args:
        outputs: ``classes`` ``(N, h, w)``.
        targets: label maps, one per image.
        class_names: in the order of the labels.
        against: outputs of another model on the same images. The measurements are then paired differences, how many more points are lost
            than by that model, and ``n`` is the number of images.
    """
    lost = _lost(outputs["classes"], targets, class_names)
    return costs(lost, len(targets), None if against is None else _lost(against["classes"], targets, class_names))


def kinds_of(predicted: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8], background: int | None) -> npt.NDArray[np.int64]:
    """Return the kind of error of each pixel, an index into ``KINDS`` ``(H, W)``; -1 if it is right or ignored.

    Args:
        predicted: predicted label map ``(H, W)``.
        expected: target label map ``(H, W)``.
        background: index of the class ``background``; None if there is none.
    """
    reach = 2 * max(1, round(_BORDER * max(expected.shape))) + 1
    border = ndimage.maximum_filter(expected, reach) != ndimage.minimum_filter(expected, reach)
    kind = np.full(expected.shape, KINDS.index("mistaken_classes"))
    if background is not None:
        kind[expected == background] = KINDS.index("invented_pixels")
        kind[predicted == background] = KINDS.index("missed_pixels")
    kind[border] = KINDS.index("borders")
    kind[(predicted == expected) | (expected == IGNORED)] = -1
    return kind


def _lost(classes: Any, targets: Any, class_names: Sequence[str]) -> dict[str, tuple[int, Floats]]:
    """Return, for each kind, the number of pixels and the points that they cost in each resample ``(R,)``."""
    number = len(class_names)
    background = class_names.index(BACKGROUND) if BACKGROUND in class_names else None
    right, expected, predicted = np.zeros((3, len(targets), number))
    wrong = np.zeros((len(KINDS), 2, len(targets), number))  # pixels by kind, counted by target class and by predicted class
    for i in range(len(targets)):
        truth = np.asarray(targets[i])
        guess = resize_to_target(classes[i], truth)
        counted = truth != IGNORED
        for counts, labels in ((right, truth[counted & (guess == truth)]), (expected, truth[counted]), (predicted, guess[counted])):
            counts[i] = np.bincount(labels, minlength=number)
        kinds = kinds_of(guess, truth, background)
        for k in range(len(KINDS)):
            rows = kinds == k
            wrong[k, :, i] = [np.bincount(labels[rows], minlength=number) for labels in (truth, guess)]
    weights = bootstrap_counts(len(targets))
    right, expected, predicted = (weights @ counts for counts in (right, expected, predicted))
    before = known_mean(intersection_over_union(right, expected, predicted))
    found = {}
    for kind, (truths, guesses) in zip(KINDS, wrong, strict=True):
        if background is None and kind in ("invented_pixels", "missed_pixels"):
            continue
        repaired, taken = weights @ truths, weights @ guesses
        after = known_mean(intersection_over_union(right + repaired, expected, predicted + repaired - taken))
        found[kind] = int(truths.sum()), 100 * (after - before)
    return found
