"""Numbers of a running job, independent of the experiment tracker that stores them: learning curves, and candidates of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


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
