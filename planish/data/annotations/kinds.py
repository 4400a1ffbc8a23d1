"""As what annotations can be read."""

from __future__ import annotations

from planish.errors import DataError
from planish.task import USUAL_TASKS, Kind

_ALSO: dict[Kind, tuple[Kind, ...]] = {"masks": ("boxes", "maps")}
"""As what else annotations of a kind can be read."""


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
