"""A run that is killed in every stage goes on, repeats no finished step, and ends with what an undisturbed run ends with."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from planish.export.verify import verify
from planish.search.result import Result
from planish.testing import write_shapes

Rows = dict[str, tuple[float, float]]  # key: (finished_at, seconds)


def rows(run: Path) -> Rows:
    try:
        with sqlite3.connect(f"file:{run / 'store.sqlite'}?mode=ro", uri=True) as db:
            return {key: (at, seconds) for key, at, seconds in db.execute("select key, finished_at, seconds from finished_steps")}
    except sqlite3.OperationalError:  # not made yet
        return {}


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "planish.cli", "optimize", str(data), "--model", "resnet8", "--out", str(run), *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    )


def kill_when(process: subprocess.Popen[bytes], run: Path, reached: str) -> None:
    """Kill the process and all it started once a step whose key begins so is finished, or the training checkpoint exists."""
    for _ in range(6000):
        if any(key.startswith(reached) for key in rows(run)) or (
            reached == "checkpoint" and (run / "work" / "original.checkpoint").exists()
        ):
            break
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed_at(stages: tuple[str, ...], data: Path, run: Path, *options: str) -> Rows:
    """Run to the end, killed once in each stage; returns the finished steps after the last kill."""
    known: Rows = {}
    for number, stage in enumerate(stages):
        kill_when(start(data, run, *options, *(["--resume"] if number else [])), run, stage)
        now = rows(run)
        assert known.items() <= now.items(), "a finished step was repeated"
        known = now
    last = start(data, run, *options, "--resume")
    _, errors = last.communicate(timeout=500)
    assert last.returncode == 0, errors.decode()
    assert known.items() <= rows(run).items(), "a finished step was repeated"
    return known


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    data, run = write_shapes(tmp_path / "shapes", per_class=40), tmp_path / "run"
    killed_at(("checkpoint", "levels"), data, run, "--budget", "75s", "--epochs", "2")
    assert verify(run / "bundle").ok
    assert Result.load(run / "result.json").chosen.measurements["latency_ms"].value > 0
    assert (run / "report.html").stat().st_size > 10_000
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_each_stage_it_finds_what_an_undisturbed_run_finds(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=60)
    options = ("--budget", "5m", "--epochs", "2")
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = start(data, calm, *options)
    _, errors = undisturbed.communicate(timeout=900)
    assert undisturbed.returncode == 0, errors.decode()
    killed_at(
        ("job", "checkpoint", "original", "artifact:", "latency:original", "levels", "latency:first", "rung 0", "rung 1", "latency:final"),
        data,
        killed,
        *options,
    )
    expected, found = Result.load(calm / "result.json"), Result.load(killed / "result.json")
    assert found.baseline.key == expected.baseline.key or found.baseline.runtime != expected.baseline.runtime
    assert found.baseline.measurements["accuracy"].value == expected.baseline.measurements["accuracy"].value
    # keys differ by the seconds that each round of training was allowed; all else is the same
    drops = [
        {c.summary: c.measurements["drop_validation"].value for c in r.candidates if "drop_validation" in c.measurements}
        for r in (expected, found)
    ]
    both = drops[0].keys() & drops[1].keys()
    assert len(both) >= 3
    assert {k: drops[0][k] for k in both} == {k: drops[1][k] for k in both}
    assert verify(killed / "bundle").ok
