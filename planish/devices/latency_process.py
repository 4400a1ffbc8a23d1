"""The parent's side of a latency worker: starting it, sending requests, detecting that it died or hangs, and ending it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.devices.latency_worker import Array, Header, pack, unpack
from planish.errors import ConnectionLostError, ModelError, PlanishError

if TYPE_CHECKING:
    from planish.artifact import Pixels

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

CONNECTION_LOST = 255  # exit code of ssh
_EXIT_SECONDS = 1.0  # from the end of a process's pipe to its own


class WorkerProcess:
    """One process that runs one subject. Always call ``close``; it never raises.

    Args:
        name: of the subject, for messages.
        threads: size of its thread pools, set before anything is imported.
        timeout: limit of a request in seconds.
        command: another command that runs a worker, on a device; None for one on this machine.
    """

    def __init__(self, name: str, threads: int, timeout: float, command: Sequence[str] | None = None) -> None:
        self.name, self.timeout, self._remote = name, timeout, command is not None
        # the loader must be importable as in this process, whatever its search path is
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONPATH": path}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed in close(); a pipe nobody reads would fill and block
        self._process = subprocess.Popen(
            command or [sys.executable, "-P", "-m", "planish.devices.latency_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=environment,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def start_loading(self, loader: str, arguments: Mapping[str, Any], imports: tuple[str, ...], batch: int, images: Pixels) -> None:
        """Request that the model is loaded; returns at once, and ``wait`` returns the reply."""
        header = {"loader": loader, "arguments": dict(arguments), "imports": list(imports), "batch": batch}
        self._send(header, [np.ascontiguousarray(images)])

    def ask(self, do: str, arrays: Sequence[Array] = (), **header: Any) -> tuple[Header, list[Array]]:
        """Send a request, with arrays if it takes any, and return the reply.

        Raises:
            ModelError: the model failed, the process died, or the timeout was reached.
            ConnectionLostError: the connection to the device was lost.
        """
        self._send({"do": do, **header}, arrays)
        return self.wait()

    def wait(self) -> tuple[Header, list[Array]]:
        """Wait for the next reply; raises the same errors as ``ask``."""
        deadline = time.monotonic() + self.timeout
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()

        def read(size: int) -> bytes:
            data = bytearray()
            while len(data) < size:
                if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise TimeoutError
                chunk = os.read(pipe, min(size - len(data), 1 << 20))
                if not chunk:
                    raise EOFError
                data += chunk
            return bytes(data)

        try:
            header, arrays = unpack(read)
        except TimeoutError:
            raise self._failure(f"gave no answer within {self.timeout:.0f} seconds") from None
        except EOFError:
            raise self._failure(self._death()) from None
        if "error" in header:
            raise self._failure(f"failed: {header['error']}")
        return header, arrays

    def close(self) -> None:
        """Kill the process; there is nothing in it that must be saved."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._stderr.close()

    def _send(self, header: Header, arrays: Sequence[Array]) -> None:
        assert self._process.stdin is not None
        data = memoryview(pack(header | {"timeout": self.timeout}, arrays))
        try:
            while data:  # a write to an unbuffered pipe may be partial
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError:
            raise self._failure(self._death()) from None

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)  # its exit code says why
        self._process.kill()  # its pipe is closed: it is dead already, or useless
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        cause = " (most likely the memory was used up)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{cause}"

    def _failure(self, what: str) -> PlanishError:
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace").strip().splitlines()[-8:]
        said = "; its last words:\n" + "\n".join(tail) if tail else ""
        code = self._process.poll()
        if self._remote and code is not None and (code == CONNECTION_LOST or code < 0):
            return ConnectionLostError(
                f"the connection was lost while {self.name!r} ran{said}", "a device stays reachable while it measures"
            )
        return ModelError(
            f"{self.name!r} cannot be timed: its process {what}{said}", "a model is timed by loading it and running it on sample images"
        )
