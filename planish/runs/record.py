"""The fields that all results share, and the run folder in which a job saves its result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.devices.device import current_device
from planish.devices.machine import describe_machine
from planish.invocation import command_line, started
from planish.progress import collecting_notes
from planish.runs.store import Store, claim


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RunRecord:
    """The fields that all results share.

    Args:
        name: name of the folder.
        created: date and time, ISO 8601, UTC.
        command: the command line; empty if the job was started from Python.
        machine: description of the machine that it ran on.
        device: description of the device that latency was measured on; empty if that is the machine.
        seconds: seconds by stage.
        notes: decisions that were made on the user's behalf.
    """

    name: str
    created: str
    command: str
    machine: dict[str, str | int | float]
    device: dict[str, str | int | float] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    schema_version: Literal[1] = 1


class OpenRun:
    """The folder of a running job."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool, notes: list[str], stack: ExitStack) -> None:
        self.path, self.notes = folder, notes
        self._settings, self._resume, self._stack, self._begun = dict(settings), resume, stack, started()
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The store of finished steps. The folder is created on first access, once the job's inputs are known to be valid."""
        if self._store is None:
            self._store = claim(self.path, self._settings, self._resume, self._begun)
            self._stack.callback(self._store.close)
        return self._store

    def record(self, **machine: str | int) -> dict[str, Any]:
        """Return the current values of the fields of ``RunRecord``; ``machine`` adds to the description of the machine."""
        return {
            "name": folder_name(self.path),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command_line(),
            "machine": describe_machine() | machine,
            "device": current_device().describe() if current_device().address else {},
            "seconds": {stage: round(s, 1) for stage, s in self.store.seconds().items()},
            "notes": self.notes,
        }


def folder_name(folder: Path) -> str:
    """Return the name of a folder, also for ``.`` and ``..``."""
    return Path(os.path.abspath(folder)).name


@contextmanager
def run_folder(folder: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[OpenRun]:
    """Within this block, only this process works in ``folder``, and notes are collected for its result.

    Args:
        folder: folder of the job.
        settings: settings of the job, JSON values; to resume it they must be the same.
        resume: continue the job in the folder.

    Raises:
        BundleError: raised on first access to the store, if the folder is in use or was started with other settings.
    """
    with ExitStack() as stack:
        notes = stack.enter_context(collecting_notes())
        yield OpenRun(folder, settings, resume, notes, stack)
