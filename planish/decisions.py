"""Decisions that depend on timing this machine, made once per run.

How many images there is time for, which precision is faster, how many steps a training takes: a second measurement could lead to another
decision, so that an interrupted run would resume to a different result. A context variable holds the function that stores decisions (the
store of a run), so that techniques do not depend on runs.
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
    """Within this block, ``decide`` calls ``remember(key, work)``, which returns the stored decision for the key, or that of ``work()``."""
    token = _remember.set(remember)
    try:
        yield
    finally:
        _remember.reset(token)


def decide(key: str, work: Callable[[], Any]) -> Any:
    """Return ``work()``, or within a run what it returned the first time.

    Args:
        key: identifies the decision within a run, at most 200 characters; it must be the same when the run is resumed.
        work: measures and decides; returns JSON values, not None.

    Example:
        >>> decide("sensitivity images", lambda: 128)
        128
    """
    remember = _remember.get()
    return work() if remember is None else remember(key, work)
