"""Until when a piece of work must be done.

A technique chooses how much it measures by the time that there is for it, and need not know of the search that gives it that time: a
context variable carries the deadline, as with progress and decisions.
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
    """Within this block, work should be done in ``seconds``, or by an outer deadline that is earlier."""
    token = _deadline.set(min(_deadline.get(), monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Until the deadline, below 0 when it is over; infinite where there is none.

    Example:
        >>> seconds_left()
        inf
        >>> with deadline(60):
        ...     seconds_left() <= 60
        True
    """
    return _deadline.get() - monotonic()
