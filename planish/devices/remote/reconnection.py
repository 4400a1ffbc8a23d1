"""Repeats what was interrupted by a lost connection."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from planish.errors import ConnectionLostError, first_line
from planish.progress import note

T = TypeVar("T")

_RECONNECTIONS, _RECONNECTION_SECONDS = 5, 2.0  # the pause doubles each time: a small computer has started again by then


def reconnecting(work: Callable[[], T], what: str) -> T:
    """Return ``work()``; if the connection is lost, wait and do it again from its beginning.

    Args:
        work: what needs the connection.
        what: name of it, for the note: ``this launch``.

    Raises:
        ConnectionLostError: the connection was lost again and again.
    """
    for attempt in range(_RECONNECTIONS):
        try:
            return work()
        except ConnectionLostError as error:
            note(f"{first_line(error)}; {what} is repeated")
            sleep(_RECONNECTION_SECONDS * 2**attempt)
    return work()
