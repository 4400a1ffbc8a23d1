"""The store: a finished step is never repeated, a kill loses at most the step under way, and the run's clock goes on where it stood."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing
from planish.decisions import decide
from planish.errors import BundleError, ConnectionLostError, DataError, TechniqueError
from planish.files.atomic import read_arrays, write_arrays, write_json
from planish.models import create
from planish.models.storage import load_artifact, save_artifact
from planish.progress import collecting_notes, note
from planish.runs import store as stores
from planish.runs.record import run_folder
from planish.runs.store import STARTING, Store, claim


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only where a test says so."""
    time = [100.0]
    monkeypatch.setattr(stores, "monotonic", lambda: time[0])
    return time


def takes(now: list[float], seconds: float, found: Any = True) -> Any:
    def work() -> Any:
        now[0] += seconds
        return found

    return work


def test_a_step_runs_once(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []
    assert store.once("a", "training", lambda: calls.append(1) or {"x": [1, 2]}) == {"x": [1, 2]}
    assert Store(tmp_path).once("a", "training", lambda: calls.append(1)) == {"x": [1, 2]}
    assert Store(tmp_path).once("none", "training", lambda: calls.append(1)) is None
    assert Store(tmp_path).once("none", "training", lambda: calls.append(1)) is None
    assert calls == [1, 1]
    assert store.keys() == ["a", "none"]
    assert 0 <= store.seconds_of("a") <= store.seconds()["training"]


def test_a_step_that_fails_is_not_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.once("a", "training", lambda: 1 / 0)
    assert not store.has("a")


def test_what_was_found_impossible_is_not_tried_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise TechniqueError("it has no channels", "something is cut", "try INT8")

    for _ in range(2):
        assert Store(tmp_path).attempt("a", "searching", fails) == "it has no channels. something is cut. try INT8."
        assert Store(tmp_path).attempt("b", "searching", lambda: None) == ""
    assert calls == [1]
    with pytest.raises(TechniqueError):
        Store(tmp_path).attempt("c", "searching", fails, (DataError,))


def test_a_lost_connection_does_not_make_an_attempt_impossible(tmp_path: Path) -> None:
    def lost() -> None:
        raise ConnectionLostError("the device is gone")

    with pytest.raises(ConnectionLostError):
        Store(tmp_path).attempt("a", "searching", lost)
    assert Store(tmp_path).attempt("a", "searching", lambda: None) == ""


def test_what_was_put_survives_a_kill(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from planish.runs.store import claim
store = claim(Path({str(tmp_path)!r}) / "run", {{}}, resume=False)
for i in range(1000):
    store.once(str(i), "s", lambda: i)
    if i == 25:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(claim(tmp_path / "run", {}, resume=True).keys()) == 1 + 26, "and its lock went with it"


def test_a_resumed_run_reads_the_times_that_it_read_before(tmp_path: Path, now: list[float]) -> None:
    def sitting(resume: bool, steps: int) -> list[float]:
        store, read = claim(tmp_path / "run", {}, resume), []
        for i in range(steps):
            store.once(f"step {i}", "work", takes(now, 2.0**i))
            read.append(store.elapsed)
            store.once("step 0", "work", takes(now, 1000))  # known long since
            read.append(store.elapsed)
        store.close()
        return read

    before = sitting(False, 4)
    assert before == [1, 1, 3, 3, 7, 7, 15, 15]
    now[0] += 10_000  # while nobody worked
    after = sitting(True, 5)
    assert after == [*before, 31, 31]


def test_time_between_steps_counts_with_the_next_one(tmp_path: Path, now: list[float]) -> None:
    now[0] += 5
    store = claim(tmp_path / "run", {}, resume=False, begun=now[0] - 5)
    assert store.elapsed == 5, "and what was done before the folder was claimed"
    now[0] += 2
    assert store.elapsed == 5
    store.once("outer", "a", lambda: [store.once("inner", "b", takes(now, 4)), takes(now, 1)()])
    assert store.elapsed == 12
    assert store.seconds() == {"setup": 0, STARTING: 5, "a": 1, "b": 4, "other": 2}
    store.close()


def test_time_lost_by_kills_counts_against_the_budget_and_in_seconds(tmp_path: Path, now: list[float]) -> None:
    run = tmp_path / "run"
    store = claim(run, {}, resume=False)
    store.once("a", "work", takes(now, 10))

    def killed_after(seconds: float) -> None:
        """What a SIGKILL leaves: the lock is free, and its file says until when the process was alive."""
        now[0] += seconds
        assert store._lock is not None
        store._lock._write(store._now())
        store.close()

    killed_after(7)
    now[0] += 100_000
    store = claim(run, {}, resume=True)
    store.once("a", "work", takes(now, 99))
    assert store.elapsed == 10, "a decision that was taken then is taken by the time that was left then"
    killed_after(3)
    store = claim(run, {}, resume=True)
    store.once("a", "work", takes(now, 99))
    now[0] += 1
    store.once("b", "work", takes(now, 5))
    assert store.elapsed == 10 + 7 + 3 + 1 + 5
    assert store.seconds() == {"setup": 0, STARTING: 0, "work": 15, "interrupted": 10, "other": 1}
    store.close()
    store = claim(run, {}, resume=True)
    assert store.once("b", "work", takes(now, 99))
    assert store.elapsed == 26
    store.close()


def test_it_is_told_every_second_that_a_run_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.runs.lock._BEAT_SECONDS", 0.01)
    code = "import time; time.sleep(0.2)"
    store = claim(tmp_path / "run", {}, resume=False)
    subprocess.run([sys.executable, "-c", code], check=True)
    store.close()
    store = claim(tmp_path / "run", {}, resume=True)
    assert store._lost >= 0.1
    store.close()


def test_notes_of_finished_steps_are_made_again_in_their_order(tmp_path: Path) -> None:
    def inner() -> bool:
        note("two")
        return True

    def outer() -> bool:
        note("one")
        store.once("inner", "s", inner)
        note("three")
        return True

    for _ in range(2):
        store = Store(tmp_path)
        with collecting_notes() as notes:
            store.once("outer", "s", outer)
            note("four")
        assert notes == ["one", "two", "three", "four"]
        store.close()


def test_what_is_measured_within_a_step_is_decided_once(tmp_path: Path) -> None:
    measured = iter([3, 5, 7])

    def killed() -> Any:
        decide("images", lambda: next(measured))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).once("step", "s", killed)
    assert Store(tmp_path).once("step", "s", lambda: decide("images", lambda: next(measured))) == 3
    assert decide("images", lambda: next(measured)) == 5, "no run remembers"


def test_files_that_cannot_be_read_are_made_again(tmp_path: Path, now: list[float]) -> None:
    path, made = tmp_path / "x.npz", []

    def make() -> int:
        now[0] += 1
        made.append(1)
        write_arrays(path, x=np.arange(5))
        return len(made)

    def load() -> tuple[int, list[int], float]:
        found = store.load("x", "s", make, lambda found: (found, read_arrays(path)["x"].tolist()))
        return *found, store.elapsed

    store = Store(tmp_path)
    assert load() == (1, [0, 1, 2, 3, 4], 1)
    store.once("later", "s", takes(now, 10))
    half = path.read_bytes()[: path.stat().st_size // 2]
    for damage in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_bytes(half)):
        damage()
        store = Store(tmp_path)
        with collecting_notes() as notes:
            assert load()[1:] == ([0, 1, 2, 3, 4], 1), "later decisions were taken by the time that it was then"
        assert len(notes) == 1
        assert "x: its files cannot be read, so the step is repeated" in notes[0]
    assert len(made) == 4
    assert Store(tmp_path).seconds_of("x") == 1


def test_a_run_is_never_overwritten_and_resumes_only_the_same_job(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(BundleError, match="there is no run"):
        claim(folder, {"model": "a"}, resume=True)
    claim(folder, {"model": "a"}, resume=False).close()
    with pytest.raises(BundleError, match="holds a run already"):
        claim(folder, {"model": "a"}, resume=False)
    with pytest.raises(BundleError, match="model was 'a' and is now 'b'"):
        claim(folder, {"model": "b"}, resume=True)
    claim(folder, {"model": "a"}, resume=True).close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(BundleError, match="not an empty folder"):
        claim(tmp_path / "other", {}, resume=False)


def test_a_run_of_another_version_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.sqlite") as db:
        db.execute("create table finished_steps (key text primary key, stage text, found text, seconds real, finished_at real)")
    with pytest.raises(BundleError, match=r"another version of Planish.*another --out"):
        claim(tmp_path, {}, resume=True)
    (tmp_path / "store.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(BundleError, match="cannot be read"):
        claim(tmp_path, {}, resume=True)


def test_one_process_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from planish.runs.store import claim
store = claim(Path({str(tmp_path)!r}) / "run", {{}}, resume=False)
print("ready", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        for resume in (True, False):
            with pytest.raises(BundleError, match=rf"in use by the process {other.pid}\b.*wait until it ends"):
                claim(tmp_path / "run", {}, resume)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        claim(tmp_path / "run", {}, resume=True).close()
    finally:
        other.kill()
        other.wait()


def test_a_folder_that_was_claimed_and_nothing_more_can_be_used(tmp_path: Path) -> None:
    claim(tmp_path / "run", {}, resume=False).close()
    for file in (tmp_path / "run").glob("store.sqlite*"):
        file.unlink()
    claim(tmp_path / "run", {}, resume=False).close()


class Disk:
    """Remembers what was synced; what was not is lost in a power cut: content that was written since, and names that were given since."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, real = folder, os.fsync
        self.content: dict[int, tuple[int, int]] = {}  # of files, by inode: size and when it was written
        self.names: dict[int, dict[str, int]] = {}  # of folders: the inodes of what is in them

        def fsync(file: int) -> None:
            real(file)
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                self.names[status.st_ino] = {found.name: found.inode() for found in os.scandir(file)}
            else:
                self.content[status.st_ino] = (status.st_size, status.st_mtime_ns)

        monkeypatch.setattr(os, "fsync", fsync)

    def after_a_power_cut(self, to: Path) -> None:
        """What is left of the files."""
        for file in [f for f in self.folder.rglob("*") if f.is_file()]:
            named = [p for p in (file, *file.parents) if p.parent.is_relative_to(self.folder)]
            if all(self.names.get(p.parent.stat().st_ino, {}).get(p.name) == p.stat().st_ino for p in named):
                left = to / file.relative_to(self.folder)
                left.parent.mkdir(parents=True, exist_ok=True)
                whole = self.content.get(file.stat().st_ino) == (file.stat().st_size, file.stat().st_mtime_ns)
                left.write_bytes(file.read_bytes() if whole else b"")


def test_files_are_on_the_disk_before_their_step_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = create("resnet8x0.5", num_classes=4, channels=1, image_size=12)
    how = Preprocessing(decode_side=12, resize="squash", mean=(0.3,), std=(0.25,))
    artifact = Artifact("torch", InputSpec(1, 12, 12), how, ("a", "b", "c", "d"), Lineage(created.source), module=created.module.eval())
    store, work = Store(tmp_path), tmp_path / "work"
    work.mkdir()
    disk, real, cut = Disk(work, monkeypatch), Store._write, tmp_path / "cut"

    def recorded(self: Store, key: str, *more: Any) -> None:
        disk.after_a_power_cut(cut / key)
        real(self, key, *more)

    monkeypatch.setattr(Store, "_write", recorded)
    for time in ("first", "again"):  # and replaced
        store.once(f"new folder, {time}", "s", lambda time=time: save_artifact(artifact, work / f"new {time}" / "0"))
        assert load_artifact(cut / f"new folder, {time}" / f"new {time}" / "0").module is not None
        store.once(f"network, {time}", "s", lambda: save_artifact(artifact, work / "network"))
        store.once(f"arrays, {time}", "s", lambda: write_arrays(work / "x.npz", x=np.arange(3)))
        store.once(f"values, {time}", "s", lambda: write_json(work / "x.json", {"a": 1}))
        assert load_artifact(cut / f"network, {time}" / "network").module is not None
        assert read_arrays(cut / f"arrays, {time}" / "x.npz")["x"].tolist() == [0, 1, 2]
        assert json.loads((cut / f"values, {time}" / "x.json").read_text()) == {"a": 1}


def test_a_run_in_the_current_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    with run_folder(Path(), {}, resume=False) as run:
        assert run.record()["name"] == "photos"
