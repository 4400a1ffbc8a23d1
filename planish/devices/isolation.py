"""Function calls in a separate process with limits of time and memory: damaged model files can crash the C++ libraries that load them.

``python -m planish.devices.isolation`` is the child process: it reads the call from stdin as JSON, and writes the result to stdout as JSON.
What libraries print goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planish import errors
from planish.devices.latency_process import THREAD_VARIABLES
from planish.errors import ExportError, ModelError, PlanishError

_WAITS = 3.0  # limit of wall-clock time as a multiple of that of CPU time, since the machine may be busy


@dataclass(frozen=True)
class ProcessLimits:
    """The limits of a call.

    Args:
        cpu_seconds: CPU time, including the start of Python and imports.
        memory_bytes: private memory.
    """

    cpu_seconds: int
    memory_bytes: int


def call_isolated(function: str, arguments: Mapping[str, Any], what: str, limits: ProcessLimits) -> Any:
    """Call a function in a new process.

    Args:
        function: ``package.module:name``.
        arguments: its keyword arguments, JSON values only.
        what: description of the file that is loaded, for the error message.
        limits: of the process.

    Returns:
        What the function returns, a JSON value.

    Raises:
        PlanishError: the function raised it.
        ExportError: it raised something else, the process crashed, or it reached a limit.
    """
    call = {"function": function, "arguments": dict(arguments), "cpu_seconds": limits.cpu_seconds, "memory_bytes": limits.memory_bytes}
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "planish.devices.isolation"],
            input=json.dumps(call).encode(),
            capture_output=True,
            timeout=_WAITS * limits.cpu_seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise _refusal(what, f"does not load within {_WAITS * limits.cpu_seconds:.0f} s") from None
    if done.returncode < 0 and signal.Signals(-done.returncode).name == "SIGXCPU":
        raise _refusal(what, f"does not load within {limits.cpu_seconds} s of processor time")
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        code = done.returncode
        end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise _refusal(what, f"crashes the library that loads it ({end})") from None
    if "failure" in reply:
        raise _refusal(what, f"cannot be used: {reply['failure']}")
    if "error" in reply:
        kind, parts = reply["error"]
        raise getattr(errors, kind)(*parts)
    return reply["value"]


def _refusal(what: str, how: str) -> ExportError:
    return ExportError(f"{what} {how}", "a model file must be whole", "download or export it again")


def _answer(call: Mapping[str, Any]) -> dict[str, Any]:
    """Make the call; returns the reply to the parent."""
    module, _, name = call["function"].partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(**call["arguments"])}
    except PlanishError as error:
        kind = type(error).__name__ if hasattr(errors, type(error).__name__) else ModelError.__name__
        return {"error": [kind, [error.received, error.rule, error.fix]]}
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {errors.first_line(error)}"}


def _bound(call: Mapping[str, Any]) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_CPU, call["cpu_seconds"]), (resource.RLIMIT_DATA, call["memory_bytes"]), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit may already be set
            resource.setrlimit(kind, (most, most + 5 if kind == resource.RLIMIT_CPU else most))


def main() -> None:
    call = json.load(sys.stdin)
    with os.fdopen(os.dup(1), "wb") as outgoing:
        os.dup2(2, 1)  # libraries print to stdout
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the parent decides
        _bound(call)
        outgoing.write(json.dumps(_answer(call)).encode())


if __name__ == "__main__":
    main()
