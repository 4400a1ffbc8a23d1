"""A device that is reached by the system's ssh; it needs Python 3.9, numpy and a runtime, and nothing is installed on it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from planish.devices.latency_process import CONNECTION_LOST, THREAD_VARIABLES, WorkerProcess
from planish.devices.remote import on_device
from planish.devices.remote.predictor import RemotePredictor
from planish.devices.remote.program import program
from planish.devices.remote.reconnection import reconnecting
from planish.errors import ConnectionLostError, DeviceError, ModelError, TechniqueError

if TYPE_CHECKING:
    from planish.artifact import Pixels, Predictor

COMMAND = "PLANISH_SSH"  # environment variable: another command than ssh, with options, as GIT_SSH_COMMAND
_LOADER = "planish.devices.remote.on_device:load"
_CACHE_BYTES = 2_000_000_000  # limit for the files kept on the device, besides those used in the last hour
_KEPT_SECONDS = 3600.0
_SECONDS = 60.0  # limit of a request, besides sending files
_SETUP_SECONDS = 1800.0
_RUN_SECONDS = 600.0  # limit for timing a group of layers, and for running a model on a few hundred images
_SESSIONS = 8  # processes at once over one connection; OpenSSH's server allows 10
_OPTIONS = {
    "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3", "ControlMaster": "auto",
    "ControlPersist": "60",
}  # fmt: skip
_USER, _HOST, _PYTHON = re.compile(r"[A-Za-z0-9_][\w.-]*"), re.compile(r"[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\]"), re.compile(r"/[\w./+-]+")
_EXAMPLE = "for example ssh://pi@raspberry.local, or ssh://pi@raspberry.local/home/pi/venv/bin/python"
_ENVIRONMENT_OR_SYSTEM = ["sh", "-c", f'p="$HOME/{on_device.ENVIRONMENT}/bin/python"; [ -x "$p" ] || p=python3; exec "$p" "$@"', "sh"]


class SshDevice:
    """A device and the connection to it. Use it as a context manager; leaving it closes the connection.

    ssh checks the key of the host as it always does. It must be able to log in without asking for a password.

    Args:
        address: ``ssh://[user@]host[:port][/path/of/python]``. The default interpreter is that of the environment that ``setup`` made, and
            ``python3`` without one.

    Raises:
        DeviceError: the address has another form, or there is no ssh on this machine.
    """

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise DeviceError(f"the device {address!r}: {error}", "an address is ssh://user@host:port", _EXAMPLE) from None
        user, python = parts.username or "", parts.path.rstrip("/")
        wrong = parts.scheme != "ssh" or not _HOST.fullmatch(host) or parts.password is not None or bool(parts.query or parts.fragment)
        if wrong or (user and not _USER.fullmatch(user)) or (python and not _PYTHON.fullmatch(python)):
            raise DeviceError(f"the device {address!r}", "an address is ssh://user@host:port, without a password", _EXAMPLE)
        self.address = address
        self._system_python = python or "python3"
        self._python = [python] if python else _ENVIRONMENT_OR_SYSTEM
        self._program: tuple[str, ...] = tuple(shlex.split(os.environ.get(COMMAND, "ssh")))
        if not self._program or shutil.which(self._program[0]) is None:
            raise DeviceError("there is no ssh on this machine", "devices are reached by OpenSSH's client", "install openssh-client")
        self._folder = Path(tempfile.mkdtemp(prefix="planish-"))
        self._options = [f"-o{name}={value}" for name, value in _OPTIONS.items()] + ([] if port is None else ["-p", str(port)])
        self._host = f"{user}@{host}" if user else host
        self._source = (files("planish") / "devices/remote/on_device.py").read_text()
        self._workers: list[WorkerProcess] = []
        self._connections = 1
        self._place = ""  # path of the program there, once it was sent

    @property
    def name(self) -> str:
        """The device's processor."""
        return str(self._description["cpu"])

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """The supported instruction sets that determine the speed of INT8 and bf16."""
        return tuple(str(self._description["instruction_sets"]).split())

    @property
    def saturates(self) -> bool:
        """Whether 8-bit weights overflow in its integer kernels."""
        return on_device.saturates(str(self._description["architecture"]), self.instruction_sets)

    @property
    def cores(self) -> int:
        """The number of logical cores."""
        return int(self._description["logical_cores"])

    def __enter__(self) -> SshDevice:
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self._connections):
            subprocess.run([*self._ssh(number)[:-1], "-O", "exit", self._host], capture_output=True, timeout=_SECONDS, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self) -> dict[str, str | int | float]:
        """Return the address, processor, memory and versions of runtimes; frequency and temperature are as of the first call."""
        return {"address": self.address, **self._description}

    def state(self) -> dict[str, Any]:
        """Return its load, and where it has them, frequency, governor and temperature."""
        return dict(json.loads(reconnecting(lambda: self._run(["state"]), "this request")))

    def runtime_version(self, runtime: str) -> str:
        """Return the version of a runtime there; empty if it is not installed."""
        name = runtime.removesuffix("-default")
        return str(self._description[name]) if name in on_device.RUNTIMES else ""

    def setup(self, wheels: Sequence[Path], packages: Sequence[str]) -> None:
        """Make a virtual environment there, which is used from then on if the address names no interpreter.

        Args:
            wheels: files of all packages that are needed; none to install from PyPI.
            packages: names of those to install.

        Raises:
            DeviceError: Python makes no virtual environments there, or a package cannot be installed.
        """
        folder = str(Path(self.send(wheels)[0]).parent) if wheels else ""
        self._run(["setup", folder, *packages], _SETUP_SECONDS, [self._system_python])
        self.__dict__.pop("_description", None)

    def placed(self, loader: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Send the files of a model; return the loader there and its keyword arguments."""
        unpacked = importlib.import_module("planish.export.runtimes.packed_file").unpacked_file  # by name, as these are above this package
        places = self.send([unpacked(Path(file)) for file in arguments["files"]])
        return _LOADER, {**arguments, "files": places}

    def send(self, paths: Sequence[Path]) -> list[str]:
        """Send files unless the device has them already; return their paths there, all in one folder.

        Raises:
            DeviceError: the connection is lost, or the disk is full.
        """
        return reconnecting(lambda: self._send(paths), "sending files")

    def _send(self, paths: Sequence[Path]) -> list[str]:
        contents = [program(), *(path.read_bytes() for path in paths)]  # with the program each time, so that it is not removed there
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        folders = [hashes[0][:32], *[hashlib.sha256("".join(hashes[1:]).encode()).hexdigest()[:32]] * len(paths)]
        names = ["program.pyz", *(re.sub(r"[^\w.+-]", "_", path.name) for path in paths)]
        wanted = [list(each) for each in zip(folders, names, map(len, contents), hashes, strict=True)]
        process = subprocess.Popen(
            self._command(["receive", str(_CACHE_BYTES), str(_KEPT_SECONDS)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        pipe, process.stdin = process.stdin, None  # so that communicate does not flush it
        assert pipe is not None
        assert process.stdout is not None
        reply = b""
        try:
            _write(pipe, json.dumps(wanted).encode() + b"\n")
            for index in json.loads(process.stdout.readline() or "[]"):
                packed = zlib.compress(contents[index], 1)  # layers that are timed have few different weights
                _write(pipe, len(packed).to_bytes(8, "big") + packed)
            reply = process.stdout.readline()
        except BrokenPipeError:
            pass  # what was said on the other side explains it
        finally:
            pipe.close()
        said = process.communicate()[1].decode(errors="replace")
        if not reply:
            raise self._failure("files cannot be sent", said, process.returncode)
        self._place, *places = map(str, json.loads(reply))
        return places

    def worker(self, name: str, threads: int, timeout: float) -> WorkerProcess:
        """Start a process there that runs one model, see ``WorkerProcess``."""
        self._workers = [each for each in self._workers if each.is_running]
        connection, place = divmod(len(self._workers), _SESSIONS)
        if connection and not place:
            self._connections = max(self._connections, connection + 1)
            self._run(["state"], connection=connection)  # connects: processes that start at once would each do so
        if not self._place:
            self.send([])
        variables = [f"{variable}={threads}" for variable in THREAD_VARIABLES]
        words = ["env", *variables, *self._python, "-B", self._place, "worker"]
        worker = WorkerProcess(name, threads, timeout, [*self._ssh(connection), shlex.join(words)])
        self._workers.append(worker)
        return worker

    def take_turns(self, files: Sequence[Path], shapes: Sequence[Sequence[int]], runtime: str, threads: int) -> list[float]:
        """Time files in turn in one process there; see ``planish.devices.latency_worker.take_turns``.

        Raises:
            TechniqueError: a file cannot be timed.
        """
        given = {"loader": _LOADER, "files": self.send(files), "shapes": [list(s) for s in shapes], "runtime": runtime, "threads": threads}

        def work() -> list[float]:
            worker = self.worker("layers", threads, _RUN_SECONDS)
            try:
                return list(worker.ask("take_turns", arguments=given)[0]["milliseconds"])
            except ModelError as error:
                raise TechniqueError(error.received, error.rule, error.fix) from error
            finally:
                worker.close()

        return reconnecting(work, "timing these layers")

    @contextmanager
    def predictor(self, files: Sequence[Path], runtime: str, threads: int) -> Iterator[Predictor]:
        """Open a model there for a block of code, to run it on single images."""
        loader, arguments = self.placed("", {"files": files, "runtime": runtime, "threads": threads, "batch": 1})

        def start(images: Pixels) -> WorkerProcess:
            worker = self.worker(files[0].name, threads, _RUN_SECONDS)
            worker.start_loading(loader, arguments, (), 1, images)
            return worker

        opened = RemotePredictor(start)
        try:
            yield opened
        finally:
            opened.close()

    @cached_property
    def _description(self) -> dict[str, Any]:
        return dict(json.loads(self._run(["describe"])))

    def _run(self, words: Sequence[str], seconds: float = _SECONDS, python: Sequence[str] = (), connection: int = 0) -> str:
        """Run the program there for one request, and return what it prints."""
        command = self._command(words, python, connection)
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise self._failure(f"no answer within {seconds:.0f} seconds", "", 1) from None
        if done.returncode:
            raise self._failure(f"{words[0]} fails", done.stderr.decode(errors="replace"), done.returncode)
        return done.stdout.decode()

    def _command(self, words: Sequence[str], python: Sequence[str] = (), connection: int = 0) -> list[str]:
        return [*self._ssh(connection), shlex.join([*(python or self._python), "-c", self._source, *words])]

    def _ssh(self, connection: int) -> list[str]:
        """The command that runs a command line there, over one of the connections."""
        return [*self._program, "-T", *self._options, f"-oControlPath={self._folder}/connection-{connection}", self._host]

    def _failure(self, what: str, said: str, code: int) -> DeviceError:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        kind = ConnectionLostError if code == CONNECTION_LOST else DeviceError
        return kind(
            f"{self.address}: {what}" + (f": {lines[-1]}" if lines else ""),
            "ssh logs in without asking for a password, and Python 3.9, numpy and a runtime are installed there",
            f"try: ssh {self._host} {self._system_python} --version",
        )


def _write(pipe: Any, data: bytes) -> None:
    left = memoryview(data)
    while left:  # a write to an unbuffered pipe may be partial
        left = left[pipe.write(left) :]
