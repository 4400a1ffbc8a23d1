"""Text for a bundle's README that depends on the task: the kind of model, and a line of Python that prints a prediction."""

from __future__ import annotations

from planish.tasks.base import BaseTask, ReadmeText
from planish.tasks.registry import registered


def lines(task: str) -> ReadmeText:
    """Return the text for the task of this name; for an unknown task, the line prints the shapes of its outputs."""
    kinds = registered()
    return kinds[task]({}, ()).readme if task in kinds else BaseTask({}, ()).readme
