"""A device that is reached by the system's ssh; it needs Python 3.9, numpy and a runtime, and nothing is installed on it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from planish.devices.latency_process import THREAD_VARIABLES, WorkerProcess
from planish.devices.remote.program import program
from planish.errors import DeviceError

COMMAND = "PLANISH_SSH"  # environment variable: another command than ssh, with options, as GIT_SSH_COMMAND
LOADER = "planish.devices.remote.on_device:load"
_CACHE_BYTES = 2_000_000_000  # limit for the files kept on the device
_SECONDS = 60.0  # limit of a request, besides sending files
_OPTIONS = {
    "BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3", "ControlMaster": "auto",
    "ControlPersist": "60",
}  # fmt: skip
_USER, _HOST, _PYTHON = re.compile(r"[A-Za-z0-9_][\w.-]*"), re.compile(r"[A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.]+\]"), re.compile(r"/[\w./+-]+")
_EXAMPLE = "for example ssh://pi@raspberry.local, or ssh://pi@raspberry.local/home/pi/venv/bin/python"


class SshDevice:
    """A device and the connection to it. Use it as a context manager; leaving it closes the connection.

    ssh checks the key of the host as it always does. It must be able to log in without asking for a password.

    Args:
        address: ``ssh://[user@]host[:port][/path/of/python]``; the default interpreter is ``python3``.

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
        self.address, self.python = address, python or "python3"
        self._program: tuple[str, ...] = tuple(shlex.split(os.environ.get(COMMAND, "ssh")))
        if not self._program or shutil.which(self._program[0]) is None:
            raise DeviceError("there is no ssh on this machine", "devices are reached by OpenSSH's client", "install openssh-client")
        self._folder = Path(tempfile.mkdtemp(prefix="planish-"))
        options = [f"-o{name}={value}" for name, value in (_OPTIONS | {"ControlPath": f"{self._folder}/%C"}).items()]
        options += [] if port is None else ["-p", str(port)]
        self._destination = [*options, f"{user}@{host}" if user else host]
        self._source = (files("planish") / "devices/remote/on_device.py").read_text()

    @cached_property
    def name(self) -> str:
        """The device's processor."""
        return str(self.describe()["cpu"])

    def __enter__(self) -> SshDevice:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._program, "-O", "exit", *self._destination], capture_output=True, timeout=_SECONDS, check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Return the device's processor, memory, versions of runtimes, frequency and temperature."""
        return dict(json.loads(self._run("describe")))

    def state(self) -> dict[str, Any]:
        """Return its load, and where it has them, frequency, governor and temperature."""
        return dict(json.loads(self._run("state")))

    def send(self, paths: Sequence[Path]) -> list[str]:
        """Send the files of a model unless the device has them already; return their paths there.

        Raises:
            DeviceError: the connection is lost, or the disk is full.
        """
        contents = [path.read_bytes() for path in paths]
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        folder = hashlib.sha256("".join(hashes).encode()).hexdigest()[:32]
        names = [re.sub(r"[^\w.-]", "_", path.name) for path in paths]
        wanted = [[folder, name, len(content), digest] for name, content, digest in zip(names, contents, hashes, strict=True)]
        process = subprocess.Popen(
            self._command(["receive", str(_CACHE_BYTES)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        pipe, process.stdin = process.stdin, None  # so that communicate does not flush it
        assert pipe is not None
        assert process.stdout is not None
        reply = b""
        try:
            _write(pipe, json.dumps(wanted).encode() + b"\n")
            for index in json.loads(process.stdout.readline() or "[]"):
                _write(pipe, contents[index])
            reply = process.stdout.readline()
        except BrokenPipeError:
            pass  # what was said on the other side explains it
        finally:
            pipe.close()
        said = process.communicate()[1].decode(errors="replace")
        if not reply:
            raise self._failure("files cannot be sent", said)
        return list(json.loads(reply))

    def worker(self, name: str, threads: int, timeout: float) -> WorkerProcess:
        """Start a process there that times one model, see ``WorkerProcess``."""
        variables = [f"{variable}={threads}" for variable in THREAD_VARIABLES]
        words = ["env", *variables, self.python, "-B", self._place, "worker"]
        return WorkerProcess(name, threads, timeout, [*self._program, "-T", *self._destination, shlex.join(words)])

    @cached_property
    def _place(self) -> str:
        """Path of the program on the device."""
        archive = self._folder / "program.pyz"
        archive.write_bytes(program())
        return self.send([archive])[0]

    def _run(self, do: str) -> str:
        try:
            done = subprocess.run(self._command([do]), capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise self._failure(f"no answer within {_SECONDS:.0f} seconds", "") from None
        if done.returncode:
            raise self._failure("it does not answer", done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def _command(self, words: Sequence[str]) -> list[str]:
        return [*self._program, "-T", *self._destination, shlex.join([self.python, "-c", self._source, *words])]

    def _failure(self, what: str, said: str) -> DeviceError:
        lines = [line for line in said.strip().splitlines() if line.strip()]
        return DeviceError(
            f"{self.address}: {what}" + (f": {lines[-1]}" if lines else ""),
            "ssh logs in without asking for a password, and Python 3.9, numpy and a runtime are installed there",
            f"try: ssh {self._destination[-1]} {self.python} --version",
        )


def _write(pipe: Any, data: bytes) -> None:
    left = memoryview(data)
    while left:  # a write to an unbuffered pipe may be partial
        left = left[pipe.write(left) :]
