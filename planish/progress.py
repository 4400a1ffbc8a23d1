"""How long work tells how far it is, without knowing who listens: a terminal, a notebook, a log, nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from planish.printable import printable


@dataclass(frozen=True)
class Progress:
    """One report.

    Args:
        stage: what is under way: ``decoding images``.
        done: how much of ``total`` is done.
        total: how much there is; 0 where unknown.
        seconds_left: estimated; None where it cannot be known yet.
        text: something worth reading: ``loss 0.41, validation accuracy 87.20 %``.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    text: str = ""


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("planish_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this block, ``listener`` is told of all progress."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def collecting_notes(*, silent: bool = False) -> Iterator[list[str]]:
    """Within this block, notes are also kept in the list, each once; with ``silent`` they are kept there only."""
    outer, kept = _listener.get(), []

    def listener(progress: Progress) -> None:
        if not progress.stage and progress.text not in kept:
            kept.append(progress.text)
        if outer is not None and (progress.stage or not silent):
            outer(progress)

    with listening(listener):
        yield kept


class Stage:
    """Counts one piece of long work: ``with Stage("decoding images", len(files)) as stage: ... stage.advance()``."""

    def __init__(self, name: str, total: int = 0) -> None:
        self.name, self.total, self.done = name, total, 0
        self._start = time.monotonic()
        self._told = 0.0

    def __enter__(self) -> Stage:
        self._tell("")
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if error is not None and not getattr(error, "__notes__", ()):
            error.add_note(f"while {self.name}")
        if self.total and self.done != self.total:
            return
        self._tell("")

    def advance(self, by: int = 1, text: str = "") -> None:
        """Say that ``by`` more is done; reports at most ten times per second unless ``text`` is given."""
        self.done += by
        if text or time.monotonic() - self._told > 0.1:
            self._tell(text)

    def _tell(self, text: str) -> None:
        listener = _listener.get()
        if listener is None:
            return
        self._told = time.monotonic()
        spent = self._told - self._start
        left = spent / self.done * (self.total - self.done) if self.done and self.total else None
        listener(Progress(self.name, self.done, self.total, left, text))


def note(text: str) -> None:
    """Tell the listener one line that should stay on the screen: what was decided on the user's behalf, and why."""
    listener = _listener.get()
    if listener is not None:
        listener(Progress("", 0, 0, None, printable(text)))
