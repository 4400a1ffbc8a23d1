"""Progress reports and numbers of long work, independent of the listener that shows or stores them: a terminal, a notebook, a log, an
experiment tracker, or none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from planish.printable import printable


@dataclass(frozen=True)
class Progress:
    """One progress report.

    Args:
        stage: the current work: ``decoding images``; empty for a note.
        done: how much of ``total`` is done.
        total: the total amount; 0 if unknown.
        seconds_left: estimate; None if there is none yet.
        text: message to show: ``loss 0.41, validation accuracy 87.20 %``.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None
    text: str = ""


Listener = Callable[[Progress], None]
_listener: ContextVar[Listener | None] = ContextVar("planish_progress", default=None)


def current_listener() -> Listener | None:
    """Return the listener of this block, to which another one may pass reports on; None if there is none."""
    return _listener.get()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this block, ``listener`` receives all progress reports."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def collecting_notes(*, silent: bool = False) -> Iterator[list[str]]:
    """Within this block, also collect notes, each once, in the list; with ``silent`` they are not passed on to the outer listener."""
    outer, kept = _listener.get(), []

    def listener(progress: Progress) -> None:
        if not progress.stage and progress.text not in kept:
            kept.append(progress.text)
        if outer is not None and (progress.stage or not silent):
            outer(progress)

    with listening(listener):
        yield kept


class Stage:
    """Reports the progress of one long operation: ``with Stage("decoding images", len(files)) as stage: ... stage.advance()``."""

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
        """Add ``by`` to the amount done; reports at most ten times per second unless ``text`` is given."""
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
    """Send the listener one line that should stay on the screen: a decision made on the user's behalf, and the reason."""
    listener = _listener.get()
    if listener is not None:
        listener(Progress("", 0, 0, None, printable(text)))


@dataclass(frozen=True)
class LoggedValues:
    """Numbers that were measured together.

    Args:
        subject: what they are of: ``original``, or the name of a candidate; empty for the job itself.
        values: the numbers by name; those that are not finite were not measured.
        step: the epoch, from 1; None for a candidate's measurements.
        about: description of the subject; a candidate's ``key``, ``summary``, ``runtime``, ``stage`` and ``reason``.
    """

    subject: str
    values: Mapping[str, float]
    step: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)


Logger = Callable[[LoggedValues], None]
_logger: ContextVar[Logger | None] = ContextVar("planish_logger", default=None)
_subject: ContextVar[str] = ContextVar("planish_subject", default="")


@contextmanager
def logging_to(logger: Logger) -> Iterator[None]:
    """Within this block, ``logger`` receives all numbers."""
    token = _logger.set(logger)
    try:
        yield
    finally:
        _logger.reset(token)


@contextmanager
def logged_as(subject: str) -> Iterator[None]:
    """Within this block, numbers are of this subject unless they name another one."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


def log_values(
    values: Mapping[str, float], *, step: int | None = None, subject: str | None = None, about: Mapping[str, str] | None = None
) -> None:
    """Hand numbers to the logger, if there is one; see ``LoggedValues``.

    Example:
        >>> with logging_to(lambda logged: print(logged.subject, dict(logged.values), logged.step)), logged_as("original"):
        ...     log_values({"train_loss": 0.5}, step=1)
        original {'train_loss': 0.5} 1
    """
    logger = _logger.get()
    if logger is not None:
        logger(LoggedValues(_subject.get() if subject is None else subject, values, step, about or {}))
