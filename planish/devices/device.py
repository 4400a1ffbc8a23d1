"""The device that models run on and are timed on: this machine, or another one that is reached by ssh.

The current device is a context variable, like the deadline, so that techniques that time layers, or choose integers by instruction sets, do
not depend on the command that sets it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from planish.devices import latency_worker, machine
from planish.devices.latency_process import WorkerProcess
from planish.devices.remote.ssh import SshDevice
from planish.devices.remote.state import describe_device
from planish.progress import note

if TYPE_CHECKING:
    from planish.artifact import Predictor

_REGISTRY = "planish.export.runtimes.registry"  # by name, as this package must not import the runtimes


class Device(Protocol):
    """A device.

    Attributes:
        address: ``ssh://user@host``; empty for this machine.
    """

    address: str

    @property
    def name(self) -> str:
        """The processor, as measurements name it."""
        ...

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """The supported instruction sets that determine the speed of INT8 and bf16."""
        ...

    @property
    def saturates(self) -> bool:
        """Whether 8-bit weights overflow in its integer kernels; see ``planish.devices.machine.saturates``."""
        ...

    @property
    def cores(self) -> int:
        """The number of logical cores."""
        ...

    def describe(self) -> dict[str, str | int | float]:
        """The processor, memory, operating system and versions of libraries."""
        ...

    def state(self) -> dict[str, Any]:
        """Frequency, governor and temperature, where they are known."""
        ...

    def runtime_version(self, runtime: str) -> str:
        """The version of a runtime; empty if it is not installed there."""
        ...

    def placed(self, loader: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The loader of a model's process and its keyword arguments, as they are on the device; ``files`` are sent there."""
        ...

    def worker(self, name: str, threads: int, timeout: float) -> WorkerProcess:
        """Start a process on the device for one model."""
        ...

    def take_turns(self, files: Sequence[Path], shapes: Sequence[Sequence[int]], runtime: str, threads: int) -> list[float]:
        """Time files in turn in one process; see ``planish.devices.latency_worker.take_turns``."""
        ...

    def predictor(self, files: Sequence[Path], runtime: str, threads: int) -> AbstractContextManager[Predictor]:
        """Open a model for a block of code, to run it on single images."""
        ...


class ThisMachine:
    """The machine that this process runs on."""

    address = ""

    @property
    def name(self) -> str:
        return machine.cpu_model()

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        return machine.instruction_sets()

    @property
    def saturates(self) -> bool:
        return machine.saturates()

    @property
    def cores(self) -> int:
        return os.cpu_count() or 1

    def describe(self) -> dict[str, str | int | float]:
        return machine.describe_machine()

    def state(self) -> dict[str, Any]:
        """Empty: what runs beside it is seen in the noise floor."""
        return {}

    def runtime_version(self, runtime: str) -> str:
        return str(importlib.import_module(_REGISTRY).find(runtime).version())

    def placed(self, loader: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        return loader, dict(arguments)

    def worker(self, name: str, threads: int, timeout: float) -> WorkerProcess:
        return WorkerProcess(name, threads, timeout)

    def take_turns(self, files: Sequence[Path], shapes: Sequence[Sequence[int]], runtime: str, threads: int) -> list[float]:
        """In this process, which has the runtime loaded already."""
        places = [str(file) for file in files]
        return latency_worker.take_turns(f"{_REGISTRY}:load", places, shapes, runtime, threads)

    def predictor(self, files: Sequence[Path], runtime: str, threads: int) -> AbstractContextManager[Predictor]:
        return nullcontext(importlib.import_module(_REGISTRY).load(files, runtime, threads=threads, batch=1))


_device: ContextVar[Device | None] = ContextVar("planish_device", default=None)
_THIS_MACHINE = ThisMachine()


def current_device() -> Device:
    """Return the device of this block of code: this machine, unless ``using_device`` chose another one."""
    return _device.get() or _THIS_MACHINE


@contextmanager
def using_device(device: str | Device | None) -> Iterator[Device]:
    """Within this block, models run and are timed on another device.

    Args:
        device: the device, or an address, see ``SshDevice``; None leaves it as it is.

    Raises:
        DeviceError: the device cannot be reached.
    """
    if device is None:
        yield current_device()
    elif isinstance(device, str):
        with SshDevice(device) as reached:
            note(f"{device} is {describe_device(reached.describe())}")
            with using_device(reached):
                yield reached
    else:
        token = _device.set(device)
        try:
            yield device
        finally:
            _device.reset(token)
