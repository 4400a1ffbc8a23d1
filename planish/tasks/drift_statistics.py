"""Statistics of model outputs for drift detection, one set per image, by the name of the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planish.tasks.base import BaseTask
from planish.tasks.registry import registered

if TYPE_CHECKING:
    from planish.artifact import Outputs


def statistics(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    """Return named values and one class for each image; nothing if the task is not registered.

    Classification has ``confidence`` (of the top class), ``entropy`` (in nats) and ``energy`` (log-sum-exp of the logits, low if no
    class fits;
    Liu et al. 2020, arXiv:2010.03759). Detection has the number of detected ``objects`` and, if there are any, their mean ``object
    size`` (share
    of the model's input) and ``confidence``. Its class is that of one randomly drawn object: images may be independent of one another,
    but the
    objects in an image are not. Semantic segmentation has the mean ``confidence`` and the ``share of`` each class.

    Args:
        task: name of the task, as in a bundle.
        outputs: outputs of the model by name, first axis N.
        class_names: in the order of the outputs.
    """
    kinds = registered()
    known = kinds[task]({}, tuple(class_names)) if task in kinds else BaseTask({}, tuple(class_names))
    return known.statistics(outputs)
