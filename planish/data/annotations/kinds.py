"""Conversions between kinds of annotations."""

from __future__ import annotations

from planish.errors import DataError
from planish.task import USUAL_TASKS, Kind

_ALSO: dict[Kind, tuple[Kind, ...]] = {"masks": ("boxes", "maps")}
"""As what else annotations of a kind can be read."""


def fitting_kind(given: Kind, wanted: Kind | None, name: str, task: str | None) -> Kind:
    """The kind of targets that annotations are converted to.

    Args:
        given: kind of the annotations.
        wanted: kind that the task needs; None for ``given``.
        name: name of the data set, for the error message.
        task: name of the task, for the error message.

    Raises:
        DataError: the annotations cannot be used for the task.
    """
    able = (given, *_ALSO.get(given, ()))
    if wanted is None or wanted in able:
        return wanted or given
    tasks = ", ".join(USUAL_TASKS[kind] for kind in able)
    raise DataError(f"{name!r} is not for the task {task!r}", f"its annotations are for {tasks}", "omit --task, or name one of these")
