"""What a job is doing, in a file of its folder that other programs can read: its stage, notes, and candidates so far."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planish.invocation import command_line
from planish.progress import Progress, current_listener, listening

LIVE_FILE = "live.json"
_SECONDS = 1.0  # minimum time between two writes
_NOTES = 200  # maximum number of notes


@dataclass
class LiveStatus:
    """What a job is doing.

    Args:
        command: the command line; empty if the job was started from Python.
        folder: where the command was started.
        stage: the current work.
        done: how much of ``total`` is done.
        total: the total amount; 0 if unknown.
        seconds_left: of the stage; None if there is no estimate.
        text: message about the stage.
        notes: decisions made on the user's behalf, oldest first.
        candidates: of a search, as in ``Result.candidates``, without their plans.
    """

    command: str = ""
    folder: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    text: str = ""
    notes: list[str] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)


class LiveFile:
    """Writes ``live.json`` at most once a second, as soon as its folder exists. What cannot be written is left out.

    Args:
        folder: folder of the job.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._written = folder / LIVE_FILE, 0.0
        self.status = LiveStatus(command_line(), os.getcwd())

    def progress(self, progress: Progress) -> None:
        """Take note of a progress report."""
        if not progress.stage:
            self.status.notes = [*self.status.notes, progress.text][-_NOTES:]
        else:
            self.status.stage, self.status.text = progress.stage, progress.text
            self.status.done, self.status.total, self.status.seconds_left = progress.done, progress.total, progress.seconds_left
        self._write()

    def candidates(self, found: Sequence[Any]) -> None:
        """Take note of all candidates (``CandidateResult``)."""
        named = ("key", "summary", "runtime", "stage", "reason")
        self.status.candidates = [
            {name: getattr(one, name) for name in named} | {"measurements": {name: m.value for name, m in one.measurements.items()}}
            for one in found
        ]
        self._write()

    def _write(self) -> None:
        if time.monotonic() - self._written < _SECONDS or not self._path.parent.is_dir():
            return
        self._written = time.monotonic()
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(asdict(self.status)), encoding="utf-8")
            partial.replace(self._path)
        except OSError:  # a full disk must not end the job
            return


@contextmanager
def telling(folder: Path, watch: Callable[[Sequence[Any]], None] | None) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Within this block, ``live.json`` in the folder says what the job is doing.

    Args:
        folder: folder of the job.
        watch: called with all candidates whenever one changes; None for nothing.

    Yields:
        What to call in place of ``watch``.
    """
    live, outer = LiveFile(folder), current_listener()

    def listener(progress: Progress) -> None:
        live.progress(progress)
        if outer is not None:
            outer(progress)

    def watched(candidates: Sequence[Any]) -> None:
        live.candidates(candidates)
        if watch is not None:
            watch(candidates)

    with listening(listener):
        yield watched
