"""Starting, stopping and resuming runs as processes of their own, which go on when the page is closed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from planish.errors import GoalError
from planish.runs.lock import holder
from planish.ui.runs import RunSummary

FIELDS = ("model", "weights", "max_drop", "max_latency", "max_size", "budget", "device", "task", "metric", "image_size")
"""Options of ``planish optimize`` that the form has, besides the data and the output folder."""
_LOG = "ui.log"


def command(form: Mapping[str, str]) -> list[str]:
    """Return the command line that a form stands for; empty fields are left out.

    Args:
        form: ``data``, ``out`` and the fields of ``FIELDS``, as text.

    Raises:
        GoalError: the folder of the images or the output folder is missing, or a value could be taken for an option.
    """
    for name in ("data", "out"):
        if not form.get(name, "").strip():
            raise GoalError(f"no {'images' if name == 'data' else 'output folder'}", "both are needed", "fill it in")
    given = {name: form.get(name, "").strip() for name in ("data", *FIELDS, "out")}
    if wrong := next((name for name, value in given.items() if value.startswith("-")), None):
        raise GoalError(f"{given[wrong]!r} as {wrong.replace('_', ' ')}", "a value does not begin with a dash", "change it")
    options = [(f"--{name.replace('_', '-')}", given[name]) for name in (*FIELDS, "out") if given[name]]
    return ["planish", "optimize", given["data"], *(part for option in options for part in option)]


def shown(words: Sequence[str]) -> str:
    """Return the command line as it is typed."""
    return shlex.join(words)


def start(words: Sequence[str], folder: Path, out: Path) -> int:
    """Start a command in a process group of its own; its output goes to a log beside the run's folder. Returns the process id.

    Args:
        words: the command line, beginning with ``planish``.
        folder: folder that it is started in.
        out: folder of the run.

    Raises:
        GoalError: the log cannot be written.
    """
    log = log_of(out)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "COLUMNS": "140"},
            )
    except OSError as error:
        raise GoalError(
            f"{log} cannot be written: {error.strerror}", "the output of a run is kept there", "choose another folder"
        ) from error
    return process.pid


def log_of(out: Path) -> Path:
    """Return the log of a run that was started from the page."""
    return out.with_name(f"{out.name}.{_LOG}")


def stop(run: RunSummary) -> bool:
    """Send Ctrl-C to the process that works on a run, which saves what is finished; returns whether there was one."""
    pid = holder(run.path)
    if pid is None:
        return False
    os.kill(pid, signal.SIGINT)
    return True


def resume(run: RunSummary) -> int:
    """Go on with a stopped run; returns the process id.

    Raises:
        GoalError: the command that started it is not known.
    """
    if not run.can_resume:
        raise GoalError(f"{run.id} cannot be resumed", "the command that started it is not known", "start it again with --resume")
    words = shlex.split(run.command)
    folder = Path(run.started_in) if run.started_in and Path(run.started_in).is_dir() else Path.cwd()
    if "--out" not in words and not any(word.startswith("--out=") for word in words):
        words += ["--out", str(run.path)]
    return start([*words, *([] if "--resume" in words else ["--resume"])], folder, run.path)


def log_tail(run: RunSummary, lines: int = 30) -> str:
    """Return the last lines of the run's log, without those of progress; empty if it was not started from the page."""
    try:
        text = log_of(run.path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    kept = [line for line in text.splitlines() if line.strip() and not line.rstrip().endswith(" left")]
    return "\n".join(kept[-lines:])
