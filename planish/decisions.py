"""What is decided by measuring this machine, so that it is decided once.

How many images there is time for, which precision is faster, how many steps a training takes: measured again, such things come out
differently, and a run that was interrupted would go on to another result. A context variable carries whoever remembers them (the store of
a run), so that techniques need not know of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Remember = Callable[[str, Callable[[], Any]], Any]
_remember: ContextVar[Remember | None] = ContextVar("planish_decisions", default=None)


@contextmanager
def remembering(remember: Remember) -> Iterator[None]:
    """Within this block, ``remember(key, work)`` gives what was decided under that key before, else what ``work()`` decides."""
    token = _remember.set(remember)
    try:
        yield
    finally:
        _remember.reset(token)


def decide(key: str, work: Callable[[], Any]) -> Any:
    """What ``work()`` returns, or within a run what it returned the first time.

    Args:
        key: unique within a run to what is decided, at most 200 characters; the same when the run is resumed.
        work: measures and decides; returns JSON values, not None.

    Example:
        >>> decide("sensitivity images", lambda: 128)
        128
    """
    remember = _remember.get()
    return work() if remember is None else remember(key, work)
