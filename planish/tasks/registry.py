"""The tasks by name: built-in ones, and those of other packages with the entry point ``planish.tasks``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from planish.errors import DataError
from planish.task import OUTPUTS, Split, SplitName, Task, TaskFactory, installed_tasks
from planish.tasks.classification import Classification
from planish.tasks.detection import Detection
from planish.tasks.outputs import RawOutputs
from planish.tasks.segmentation import SemanticSegmentation

TASKS: dict[str, TaskFactory] = {
    "classification": Classification,
    "detection": Detection,
    "instance": partial(Detection, name="instance"),
    "semantic": SemanticSegmentation,
    OUTPUTS: RawOutputs,
}


def registered() -> dict[str, TaskFactory]:
    """Return factories that make a task from splits and class names, by the task's name."""
    return TASKS | {name: kind for name, kind in installed_tasks().items() if name not in TASKS}


def task_for(name: str, splits: Mapping[SplitName, Split], class_names: tuple[str, ...], metric: str | None = None) -> Task:
    """Return the task of this name for these images.

    Args:
        name: name of the task.
        splits: the images.
        class_names: in the order of the outputs.
        metric: primary metric as the user writes it, see ``Task.with_metric``; None for the task's own.

    Raises:
        DataError: there is no such task.
        GoalError: the task has no such metric, or there is no such class.
    """
    kinds = registered()
    if name not in kinds:
        raise DataError(f"there is no task {name!r}", f"tasks are {', '.join(kinds)}", "install the package that adds it")
    task = kinds[name](splits, class_names)
    return task if metric is None else task.with_metric(metric)


def recipe_of(name: str) -> str:
    """Return the name of the default recipe for the task of this name; see ``Task.recipe``.

    Raises:
        DataError: there is no such task.
    """
    return task_for(name, {}, ()).recipe
