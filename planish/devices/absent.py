"""The device of a run, in a process that only trains or exports for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from planish.devices.latency_process import WorkerProcess
from planish.errors import DeviceError

if TYPE_CHECKING:
    from planish.artifact import Predictor
    from planish.devices.device import Device


@dataclass(frozen=True)
class AbsentDevice:
    """What is known of a device on which this process runs and times nothing; a ``planish.devices.device.Device``.

    Args:
        address: see ``Device``.
        name: see ``Device``.
        instruction_sets: see ``Device``.
        saturates: see ``Device``.
        cores: see ``Device``.
    """

    address: str
    name: str
    instruction_sets: tuple[str, ...]
    saturates: bool
    cores: int

    @classmethod
    def of(cls, device: Device) -> AbsentDevice:
        """Return what is known of a device."""
        return cls(device.address, device.name, device.instruction_sets, device.saturates, device.cores)

    def describe(self) -> dict[str, str | int | float]:
        return {"processor": self.name, "cores": self.cores}

    def state(self) -> dict[str, Any]:
        return {}

    def runtime_version(self, runtime: str) -> str:
        self._refuse()

    def placed(self, loader: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        self._refuse()

    def worker(self, name: str, threads: int, timeout: float) -> WorkerProcess:
        self._refuse()

    def take_turns(self, files: Sequence[Path], shapes: Sequence[Sequence[int]], runtime: str, threads: int) -> list[float]:
        self._refuse()

    def predictor(self, files: Sequence[Path], runtime: str, threads: int) -> AbstractContextManager[Predictor]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DeviceError("models are not timed in this process", f"they are timed on {self.name}, where nothing else runs meanwhile")
