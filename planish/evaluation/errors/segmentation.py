"""What goes wrong in label maps, by kind, and what each kind costs: what repairing it alone would bring, as for detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from planish.data.sources.source import BACKGROUND
from planish.evaluation.errors.costs import costs
from planish.evaluation.metrics.segmentation import IGNORED, as_large_as, bootstrap_counts, intersection_over_union
from planish.evaluation.statistics.intervals import Floats, known_mean

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.measurement import Measurement

KINDS = ("borders", "mistaken_classes", "invented_pixels", "missed_pixels")
_BORDER = 0.01  # of the larger side: this far from where two classes meet, and one pixel at least, is the border


def segmentation_errors(
    outputs: Outputs, targets: Any, class_names: Sequence[str], *, against: Outputs | None = None
) -> dict[str, Measurement]:
    """For each of ``KINDS`` the points of mIoU that repairing all of them would bring, with an interval over images; ``n`` counts pixels.

    Without a class ``background`` nothing is invented or missed, and there are two kinds.

    Args:
        outputs: ``classes`` ``(N, h, w)``.
        targets: label maps, one per image.
        class_names: in the order of the labels.
        against: of another model on the same images. Numbers are then how much more is lost than by that one, paired, and ``n`` is the
            number of images.
    """
    lost = _lost(outputs["classes"], targets, class_names)
    return costs(lost, len(targets), None if against is None else _lost(against["classes"], targets, class_names))


def kinds_of(predicted: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8], background: int | None) -> npt.NDArray[np.int64]:
    """Which of ``KINDS`` each pixel is ``(H, W)``; -1 where it is right, or is not asked for.

    Args:
        predicted: classes ``(H, W)``.
        expected: as they are.
        background: its number, if it is a class.
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
    """How many pixels of each kind there are, and the points that they cost in each draw of images ``(R,)``."""
    number = len(class_names)
    background = class_names.index(BACKGROUND) if BACKGROUND in class_names else None
    right, expected, predicted = np.zeros((3, len(targets), number))
    wrong = np.zeros((len(KINDS), 2, len(targets), number))  # pixels by kind, of the class that is wanted and of the one that is said
    for i in range(len(targets)):
        truth = np.asarray(targets[i])
        guess = as_large_as(classes[i], truth)
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
