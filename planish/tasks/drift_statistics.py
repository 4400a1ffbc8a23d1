"""What is watched of a model's outputs, as numbers per image: what drift is looked for in. Asked by the task's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planish.tasks.base import BaseTask
from planish.tasks.registry import registered

if TYPE_CHECKING:
    from planish.artifact import Outputs


def statistics(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    """Values by name, and one class, of each image; nothing where there is no such task here.

    The values of classification are ``confidence`` (of the top class), ``entropy`` (in nats) and ``energy`` (how much speaks for any class
    at all; Liu et al. 2020, arXiv:2010.03759). Those of detection are how many ``objects`` are told and, where there are any, their mean
    ``object size`` (share of what the model was shown) and ``confidence``; the class is that of one of them, drawn by lot: images may be
    independent of one another, the objects in one are not. Those of semantic segmentation are the mean ``confidence`` and the ``share of``
    each class.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
    """
    kinds = registered()
    known = kinds[task]({}, tuple(class_names)) if task in kinds else BaseTask({}, tuple(class_names))
    return known.statistics(outputs)
