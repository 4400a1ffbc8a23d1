"""The head of every result, and the folder that a job keeps it in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.devices.machine import describe_machine
from planish.invocation import command_line, started
from planish.progress import collecting_notes
from planish.runs.store import Store, claim


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RunRecord:
    """What all results have.

    Args:
        name: of the folder.
        created: date and time, ISO 8601, UTC.
        command: the command line; empty where a program called the function.
        machine: that it ran on.
        seconds: by stage.
        notes: what was decided on the user's behalf.
    """

    name: str
    created: str
    command: str
    machine: dict[str, str | int | float]
    seconds: dict[str, float] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    schema_version: Literal[1] = 1


class OpenRun:
    """The folder of a job while it works."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool, notes: list[str], stack: ExitStack) -> None:
        self.path, self.notes = folder, notes
        self._settings, self._resume, self._stack, self._begun = dict(settings), resume, stack, started()
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """Of its finished steps. The folder is made when it is first needed, when it is known that the job can be done."""
        if self._store is None:
            self._store = claim(self.path, self._settings, self._resume, self._begun)
            self._stack.callback(self._store.close)
        return self._store

    def record(self, **machine: str | int) -> dict[str, Any]:
        """The fields of ``RunRecord``, as things stand; ``machine`` adds to the description of the machine."""
        return {
            "name": self.path.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "machine": describe_machine() | machine,
            "seconds": {stage: round(s, 1) for stage, s in self.store.seconds().items()},
            "notes": self.notes,
        }


@contextmanager
def run_folder(folder: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[OpenRun]:
    """Within this block one process alone works in ``folder``; what is noted meanwhile belongs to its result.

    Args:
        folder: of the job.
        settings: of the job, JSON values; it is resumed with the same only.
        resume: go on with what is in the folder.

    Raises:
        BundleError: the folder is taken, or was begun with other settings, when the store is first needed.
    """
    with ExitStack() as stack:
        notes = stack.enter_context(collecting_notes())
        yield OpenRun(folder, settings, resume, notes, stack)
