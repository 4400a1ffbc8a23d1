"""What a bundle's README says of a task: in words, and in the last line of its Python."""

from __future__ import annotations

from planish.tasks.base import BaseTask, Lines
from planish.tasks.registry import registered


def lines(task: str) -> Lines:
    """Of the task of that name; of one that is not known, how large its outputs are."""
    kinds = registered()
    return kinds[task]({}, ()).readme if task in kinds else BaseTask({}, ()).readme
