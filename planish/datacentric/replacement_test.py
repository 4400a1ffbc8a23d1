"""The test of whether a retrained network may replace the deployed one: two one-sided paired tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.errors import DataError, GoalError
from planish.evaluation.statistics.intervals import Floats
from planish.evaluation.statistics.paired_tests import images_to_show_better, images_to_show_not_worse, p_better, p_not_worse

ALPHA, MAX_DROP = 0.05, 2.0


@dataclass(frozen=True)
class Gate:
    """Criteria for replacing a network: better on new images, and worse by less than ``max_drop`` points on old ones.

    Each test has the significance level ``alpha``. A network that is no better on new images, or worse by ``max_drop`` or more on old
    ones, passes with at most this probability: the first test is exact; for the second, Tango's, this is a good approximation. This is
    the error rate of one attempt over random test images. Repeating attempts until one passes increases it.

    Args:
        alpha: significance level, above 0 and at most 0.5.
        max_drop: accuracy drop in points, above 0.
    """

    alpha: float = ALPHA
    max_drop: float = MAX_DROP

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise GoalError(f"an alpha of {self.alpha:g}", "it lies above 0 and is at most 0.5", "for example --alpha 0.05")
        if not 0 < self.max_drop < 100:
            raise GoalError(f"a drop of {self.max_drop:g} points", "it lies above 0 and below 100", "for example --max-drop 2")

    def p_values(self, new: Floats, old: Floats, is_new: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> dict[str, float]:
        """Return the p-values of the tests on ``new`` and on ``old`` images; 1 for ``new`` if no image is new.

        Args:
            new: whether the new network is right on each test image, 0 or 1, ``(N,)``.
            old: the same for the deployed network.
            is_new: which images are new, ``(N,)``.
        """
        return {
            "new": p_better(new[is_new], old[is_new]) if is_new.any() else 1.0,
            "old": p_not_worse(new[~is_new], old[~is_new], self.max_drop / 100),
        }

    def passed(self, p_values: dict[str, float]) -> bool:
        """Return whether both tests are significant."""
        return max(p_values.values()) <= self.alpha

    def require(self, new_images: int, old_images: int) -> None:
        """Check that there are enough test images for any network to pass.

        Raises:
            DataError: there are too few.
        """
        least_new, least_old = images_to_show_better(self.alpha), images_to_show_not_worse(self.alpha, self.max_drop / 100)
        error = f"{100 * self.alpha:g}%"
        if new_images < least_new:
            raise DataError(
                f"{new_images} new images are for testing",
                f"a network is only shown to be better, with an error of {error}, where it is right on {least_new} more of them",
                "add more labelled images, of which about 15 % are for testing; or train without --replace",
            )
        if old_images < least_old:
            enough = next((drop for drop in range(1, 100) if images_to_show_not_worse(self.alpha, drop / 100) <= old_images), 99)
            raise DataError(
                f"{old_images} old images are for testing",
                f"to show that less than {self.max_drop:g} points are lost, with an error of {error}, takes at least {least_old}",
                f"allow more: --max-drop {enough}; or train without --replace",
            )
