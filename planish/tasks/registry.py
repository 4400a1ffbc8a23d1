"""The tasks by name: ours, and what others add through the entry point ``planish.tasks``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from planish.errors import DataError
from planish.task import Split, SplitName, Task, TaskFactory, installed_tasks
from planish.tasks.classification import Classification
from planish.tasks.detection import Detection
from planish.tasks.segmentation import SemanticSegmentation

TASKS: dict[str, TaskFactory] = {
    "classification": Classification,
    "detection": Detection,
    "instance": partial(Detection, name="instance"),
    "semantic": SemanticSegmentation,
}


def registered() -> dict[str, TaskFactory]:
    """What makes a task of splits and class names, by the task's name."""
    return TASKS | {name: kind for name, kind in installed_tasks().items() if name not in TASKS}


def task_for(name: str, splits: Mapping[SplitName, Split], class_names: tuple[str, ...]) -> Task:
    """The task of that name on these images.

    Raises:
        DataError: there is no such task.
    """
    kinds = registered()
    if name not in kinds:
        raise DataError(f"there is no task {name!r}", f"tasks are {', '.join(kinds)}", "install the package that adds it")
    return kinds[name](splits, class_names)


def recipe_of(name: str) -> str:
    """The recipe that a training for the task of that name follows where none is named; see ``Task.recipe``.

    Raises:
        DataError: there is no such task.
    """
    return task_for(name, {}, ()).recipe
