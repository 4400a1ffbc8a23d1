"""The command line that started a job, which results record, and its start time, from which budgets are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

_current: ContextVar[tuple[str, float] | None] = ContextVar("planish_invocation", default=None)


@contextmanager
def invoked(command: str) -> Iterator[None]:
    """Within this block, jobs record ``command`` as their command line and now as their start, so that imports count as run time."""
    token = _current.set((command, monotonic()))
    try:
        yield
    finally:
        _current.reset(token)


def command_line() -> str:
    """Return the command line; empty if the job was started from Python.

    Example:
        >>> with invoked("planish doctor"):
        ...     command_line()
        'planish doctor'
    """
    current = _current.get()
    return "" if current is None else current[0]


def started() -> float:
    """Return the start time of the command, on the clock of ``time.monotonic``; now if the job was started from Python."""
    current = _current.get()
    return monotonic() if current is None else current[1]
