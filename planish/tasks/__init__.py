"""What can be learned of images: a class for the whole, boxes, masks, a class for each pixel. One protocol, ``planish.task.Task``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from planish.errors import DataError
from planish.task import Split, SplitName, Task
from planish.tasks.classification import Classification
from planish.tasks.detection import Detection
from planish.tasks.segmentation import SemanticSegmentation

__all__ = ["Classification", "Detection", "SemanticSegmentation", "task_for"]

TASKS: dict[str, Callable[..., Any]] = {
    "classification": Classification,
    "detection": Detection,
    "instance": partial(Detection, name="instance"),
    "semantic": SemanticSegmentation,
}


RECIPES = {name: kind({}, ()).recipe for name, kind in TASKS.items()}  # that a training follows where none is named; see ``Task.recipe``


def task_for(name: str, splits: Mapping[SplitName, Split], class_names: tuple[str, ...]) -> Task:
    """The task of that name on these images.

    Raises:
        DataError: there is no such task.
    """
    if name not in TASKS:
        raise DataError(f"there is no task {name!r}", f"tasks are {', '.join(TASKS)}")
    task: Task = TASKS[name](splits, class_names)
    return task
