"""What images are labelled with, and what they can be used for."""

from __future__ import annotations

from planish.errors import DataError
from planish.task import Kind, Reader, installed_tasks

USUAL_TASKS: dict[Kind, str] = {"classes": "classification", "boxes": "detection", "masks": "instance", "maps": "semantic"}
"""What data is used for where nobody names a task."""
_ALSO: dict[Kind, tuple[Kind, ...]] = {"masks": ("boxes", "maps")}
"""As what else annotations of a kind can be read."""


def annotations_for(task: str | None) -> Kind | Reader | None:
    """What images for a task are labelled with, or a function of its own that reads them; None where no task is named.

    Raises:
        DataError: there is no such task.
    """
    if task is None:
        return None
    installed = installed_tasks()
    for kind, usual in USUAL_TASKS.items():
        if task == usual:
            return kind
    if task not in installed:
        names = ", ".join((*USUAL_TASKS.values(), *installed))
        raise DataError(f"there is no task {task!r}", f"tasks are {names}", "install the package that adds it")
    return installed[task]({}, ()).annotations


def fitting_kind(given: Kind, wanted: Kind | None, name: str, task: str | None) -> Kind:
    """As what annotations are read.

    Args:
        given: what they are.
        wanted: what the task needs; None for what they are.
        name: of the data.
        task: that they shall be used for.

    Raises:
        DataError: they are not for that.
    """
    able = (given, *_ALSO.get(given, ()))
    if wanted is None or wanted in able:
        return wanted or given
    tasks = ", ".join(USUAL_TASKS[kind] for kind in able)
    raise DataError(f"{name!r} is not for the task {task!r}", f"its annotations are for {tasks}", "omit --task, or name one of these")
