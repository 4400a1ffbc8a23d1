"""A search that is killed again and again goes on, repeats no finished step, and comes to what an undisturbed one comes to."""

from __future__ import annotations

import itertools
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.export.bundle.verify import verify
from planish.testing import write_shapes

_SCRIPT = Path(__file__).with_name("interrupted.py")


def search(run: Path, kills: list[tuple[int, float]], clock: str = "fake", **options: Any) -> int:
    """Carry a search out in the folder ``run``, see ``interrupted.main``; returns how often it was killed."""
    run.parent.mkdir()
    job = {"options": {"model": "resnet8x0.5", "students": [], **options, "out": str(run)}, "kills": kills, "clock": clock}
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), json.dumps(job)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return int(json.loads(done.stdout.splitlines()[-1])["kills"])


def random_moments(count: int, steps: int, longest: float, seed: int = 0) -> list[tuple[int, float]]:
    """So many kills, each when some of so many steps are finished and up to ``longest`` seconds more have passed."""
    draw = random.Random(seed)
    return [(number, draw.uniform(0, longest)) for number in sorted(draw.randrange(int(0.9 * steps)) for _ in range(count))]


def rows(run: Path) -> dict[str, tuple[Any, ...]]:
    """All that is remembered of the steps, but when they were finished."""
    with sqlite3.connect(run / "store.sqlite") as db:
        return {key: row for key, *row in db.execute("select key, stage, found, notes, seconds, elapsed from finished_steps")}


def files(run: Path) -> dict[str, Any]:
    """The content of all files but the store and what is only told meanwhile; of results what does not depend on the moment."""
    found: dict[str, Any] = {}
    for file in sorted(
        file for file in run.rglob("*") if file.is_file() and "sqlite" not in file.name and file.name not in ("run.lock", "live.json")
    ):
        name = str(file.relative_to(run))
        if file.suffix == ".npz":
            with np.load(file) as arrays:
                found[name] = {
                    key: (
                        arrays[key].dtype,
                        np.nan_to_num(arrays[key], nan=-1e30).tolist() if arrays[key].dtype.kind == "f" else arrays[key].tolist(),
                    )
                    for key in arrays.files
                }
        elif name in ("result.json", "evidence.json", "bundle/bundle.json"):
            found[name] = timeless(json.loads(file.read_text()))
        elif name not in ("bundle/bundle.json.sha256", "report.html"):  # the page has the time on it, and is made from the rest
            found[name] = file.read_bytes()
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in ("created", "load_average")}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def log(run: Path) -> Iterator[list[Any]]:
    with run.with_name("sittings.jsonl").open() as file:
        yield from map(json.loads, file)


def check_sittings(run: Path) -> None:
    """No finished step was done again, and all sittings asked for the same steps in the same order, at the same times, and
    were told the same."""
    finished, sittings = set(), {}
    for process, what, key, *more in log(run):
        if what == "begun":
            assert key not in finished, f"{key} was done twice"
        elif what == "finished":
            finished.add(key)
        else:
            sittings.setdefault(process, {}).setdefault(key, more)
    for pair in itertools.combinations(sittings.values(), 2):
        shorter, longer = sorted(pair, key=len)  # a later one may be killed before it is where an earlier one was
        # what belongs to an outer step that is finished by then is not asked for again
        both = [key for key in shorter if key in longer]
        assert [key for key in longer if key in shorter] == both
        assert [longer[key] for key in both] == [shorter[key] for key in both]
    unlogged = {key for key in rows(run) if not key.startswith("interrupted")} ^ finished
    assert len(unlogged) < len(sittings), "a kill may come between a step's row and its line in the log"


def check_same(calm: Path, killed: Path) -> None:
    check_sittings(killed)
    expected, found = rows(calm), rows(killed)
    assert list(found) == list(expected)
    for key in expected:
        assert found[key] == expected[key], key
    expected, found = files(calm), files(killed)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    assert verify(killed / "bundle").ok


# Not auto: what OpenVINO computes in INT8 differs from one loading of a file to the next on some processors.
_OPTIONS = {"runtime": "onnxruntime", "budget": "140s", "epochs": 2}


@pytest.mark.timeout(600)
def test_killed_at_random_moments_it_comes_to_what_it_would_have_come_to(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=40)
    calm, killed = tmp_path / "calm" / "run", tmp_path / "killed" / "run"
    search(calm, [], data=str(data), **_OPTIONS)
    assert search(killed, random_moments(3, len(rows(calm)), 0.3), data=str(data), **_OPTIONS) == 3
    check_same(calm, killed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times_in_a_search_of_several_minutes(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=150)
    options = {"data": str(data), "runtime": "onnxruntime", "budget": "20m", "model": "resnet8", "students": ["resnet8x0.5"]}
    calm, killed = tmp_path / "calm" / "run", tmp_path / "killed" / "run"
    search(calm, [], **options)
    assert search(killed, random_moments(22, len(rows(calm)), 4.0), **options) >= 20
    check_same(calm, killed)
    steps = rows(calm)
    assert sum(key.startswith("attempt:look") for key in steps) > 10
    assert sum(key.startswith("attempt:round") for key in steps) > 5
    assert sum(key.startswith("schedule") for key in steps) > 20
    assert "ranks" in steps


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_by_the_real_clock_what_was_decided_is_decided_and_lost_time_counts(tmp_path: Path) -> None:
    data, run = write_shapes(tmp_path / "shapes", per_class=60), tmp_path / "killed" / "run"
    assert search(run, random_moments(5, 80, 4.0), "real", data=str(data), budget="3m") >= 3
    check_sittings(run)
    result = json.loads((run / "result.json").read_text())
    assert result["seconds"]["interrupted"] > 1
    assert sum(result["seconds"].values()) == pytest.approx(max(row[-1] for row in rows(run).values()), abs=2)
    assert verify(run / "bundle").ok
