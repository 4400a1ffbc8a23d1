"""A deadline for a block of code.

A technique chooses how much to measure from the time that is left. The deadline is a context variable, like progress and decisions, so
that techniques do not depend on the search that sets it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic

_deadline: ContextVar[float] = ContextVar("planish_deadline", default=math.inf)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Set a deadline ``seconds`` from now for this block; an earlier outer deadline stays in force."""
    token = _deadline.set(min(_deadline.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Return the seconds until the deadline: negative once it has passed, infinite without a deadline.

    Example:
        >>> seconds_left()
        inf
        >>> with deadline(60):
        ...     seconds_left() <= 60
        True
    """
    return _deadline.get() - monotonic()
