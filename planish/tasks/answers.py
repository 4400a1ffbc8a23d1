"""What a service says of an image: a task's outputs as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import BundleError
from planish.evaluation.classification_metrics import probabilities

if TYPE_CHECKING:
    from planish.artifact import Outputs


def answers(task: str, outputs: Outputs, class_names: Sequence[str], top: int = 5) -> list[dict[str, Any]]:
    """One object an image; for classification ``{"class": name, "confidence": 0..1, "classes": [{"name", "confidence"}, ...]}``.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
        top: at most that many classes, the surest first.

    Raises:
        BundleError: nothing is known of such a task here.
    """
    if task not in _ANSWERS:
        raise BundleError(f"the bundle is for the task {task!r}", f"answers are known for {', '.join(_ANSWERS)}", "update Planish")
    return _ANSWERS[task](outputs, class_names, top)


def _classes(outputs: Outputs, class_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    found = []
    for row in probabilities(outputs["logits"]):
        surest = [{"name": class_names[i], "confidence": float(row[i])} for i in np.argsort(-row, kind="stable")[:top]]
        found.append({"class": surest[0]["name"], "confidence": surest[0]["confidence"], "classes": surest})
    return found


_ANSWERS: dict[str, Callable[[Outputs, Sequence[str], int], list[dict[str, Any]]]] = {"classification": _classes}
