"""The command line that a job was started with, and when: results record the one, budgets count from the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

_current: ContextVar[tuple[str, float] | None] = ContextVar("planish_invocation", default=None)


@contextmanager
def invoked(command: str) -> Iterator[None]:
    """Within this block, jobs were started with that command line, now; what is imported before they begin counts."""
    token = _current.set((command, monotonic()))
    try:
        yield
    finally:
        _current.reset(token)


def command_line() -> str:
    """The command line; empty where a program called the function.

    Example:
        >>> with invoked("planish doctor"):
        ...     command_line()
        'planish doctor'
    """
    current = _current.get()
    return "" if current is None else current[0]


def started() -> float:
    """When the command was started, on the clock of ``time.monotonic``; now where a program called the function."""
    current = _current.get()
    return monotonic() if current is None else current[1]
