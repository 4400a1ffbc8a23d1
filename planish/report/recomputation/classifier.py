"""The task that recomputes the metric of a classifier from stored logits."""

from __future__ import annotations

from collections.abc import Sequence

from planish.errors import GoalError
from planish.tasks import AGREEMENT, Agreement, Classification


def classifier(metric: str, class_names: Sequence[str]) -> Classification:
    """Return the classification task with a metric by its name in a stored result; with accuracy if there is no such metric."""
    if metric == AGREEMENT:
        return Agreement({}, tuple(class_names))
    task = Classification({}, tuple(class_names))
    try:
        return task.with_metric(metric)
    except GoalError:
        return task
