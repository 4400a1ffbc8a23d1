"""The store of a run: its finished steps, their results, and when they were finished.

A run that is killed at any moment loses at most the current step and, when resumed, makes the same decisions: finished steps return the
same results, and the run's clock (see ``Store.elapsed``) shows the same times.
"""

from __future__ import annotations

import json
import sqlite3
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

from planish.decisions import remembering
from planish.errors import BundleError, DeviceError, PlanishError
from planish.files.reading import wrap_parse_errors
from planish.files.workspace import sync
from planish.progress import collecting_notes, note
from planish.runs.lock import LOCK_FILE, RunLock, check_unlocked

T = TypeVar("T")

STORE_FILE = "store.sqlite"
STARTING = "starting and reading images"  # stage before the first step
INTERRUPTED = "interrupted"  # stage of the time lost through interruptions
_OTHER = "other"  # stage of the work between steps: reading files, restarting
_VERSION = 2
_DAMAGED = "it is the memory of the run", "begin it anew with another --out"
_COLUMNS = {**dict.fromkeys(("key", "stage", "found", "notes"), "text"), **dict.fromkeys(("seconds", "elapsed", "finished_at"), "real")}
_SCHEMA = """create table if not exists finished_steps (
    key text primary key, stage text not null, found text not null, notes text not null,
    seconds real not null, elapsed real not null, finished_at real not null)"""
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, BundleError)


@dataclass(frozen=True)
class _Step:
    """A row: the result and notes of a step, its own seconds, and the run's elapsed seconds when it was finished."""

    found: Any
    notes: tuple[str, ...]
    seconds: float
    elapsed: float


@dataclass(frozen=True)
class UnfinishedStep:
    """A step to be carried out.

    Args:
        key: key of the step.
        stage: stage that its seconds are counted in.
        work: does the step; returns JSON values.
    """

    key: str
    stage: str
    work: Callable[[], Any]


class _Reached(BaseException):
    """An unfinished step was reached that is not to be carried out now."""

    def __init__(self, step: UnfinishedStep) -> None:
        self.step = step


Row = tuple[str, str, str, str, float, float, float]  # key, stage, result, notes, seconds, elapsed, finished_at


class Store:
    """The finished steps of a run by key, with the result (JSON values), notes and seconds of each: a SQLite file in the run's folder.

    A step's row is written after its files are on disk, so a row means that the step is complete.

    Args:
        folder: folder of the run.
        lock: lock of the run, held until ``close``; None if no other process can be working on it.
        begun: when this process started to work on the run, on the clock of ``time.monotonic``; None for now.

    Raises:
        BundleError: the file was written by another version, or cannot be read.
    """

    def __init__(self, folder: Path, lock: RunLock | None = None, begun: float | None = None) -> None:
        self._lock, self._path = lock, folder / STORE_FILE
        self._db = self._open()
        self._inner_seconds = 0.0  # of steps nested in the current step, which are counted separately
        self._elapsed = 0.0
        self._stops = False  # at the first unfinished step
        recorded: float = self._rows("select coalesce(max(elapsed), 0.0) from finished_steps")[0][0]
        self._lost = 0.0 if lock is None else max(0.0, lock.alive_until - recorded)
        self._before, self._begun = recorded + self._lost, monotonic() if begun is None else begun
        if lock is not None:
            lock.keep_telling(self._now)

    def _open(self) -> sqlite3.Connection:
        new = not self._path.exists()
        try:
            db = sqlite3.connect(self._path, isolation_level=None)
            db.execute("pragma journal_mode=wal")
            db.execute("pragma synchronous=full")
            version = db.execute("pragma user_version").fetchone()[0]
            has_steps = db.execute("select count(*) from sqlite_master where name = 'finished_steps'").fetchone()[0]
            if has_steps and version != _VERSION:
                raise BundleError(
                    f"{self._path.parent} was begun by another version of Planish",
                    f"this one goes on with runs of version {_VERSION}, not {version}",
                    "begin it anew with another --out",
                )
            db.execute(f"pragma user_version={_VERSION}")
            db.execute(_SCHEMA)
            wrong = " or ".join(f"typeof({name}) != '{kind}'" for name, kind in _COLUMNS.items())
            if (
                db.execute("pragma quick_check(1)").fetchone()[0] != "ok"
                or db.execute(f"select 1 from finished_steps where {wrong}").fetchone()
            ):
                raise sqlite3.DatabaseError("it is damaged")
        except sqlite3.DatabaseError as error:
            raise BundleError(f"{self._path} cannot be read: {error}", *_DAMAGED) from error
        if new:
            sync(self._path.parent)
        return db

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the run, as of the last step that was finished or read; work between steps counts with the next one.

        It includes time lost through interruptions. A resumed run sees the same times as before, and so makes the same decisions.
        """
        return self._elapsed

    @property
    def now(self) -> float:
        """Current seconds since the start of the run. For reporting only: a resumed run would make other decisions based on it."""
        return max(self._now(), self._elapsed)

    def once(self, key: str, stage: str, work: Callable[[], Any]) -> Any:
        """Return ``work()``, or its stored result if the step was finished before; its notes are then repeated.

        Args:
            key: key of the step.
            stage: stage that its seconds are counted in.
            work: does the step; returns JSON values.
        """
        step = self._step(key)
        if step is None:
            step = self._do(key, stage, work)
        else:
            for text in step.notes:
                note(text)
        self._elapsed = max(self._elapsed, step.elapsed)
        return step.found

    def load(self, key: str, stage: str, make: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """Return ``read(result)``, where ``make`` writes files and returns ``result``, and is run only once.

        Files that cannot be read are made again; decisions within ``make`` are stored, so the new files are the same.
        """
        found = self.once(key, stage, make)
        try:
            return read(found)
        except _UNREADABLE as error:
            note(f"{key}: its files cannot be read, so the step is repeated ({type(error).__name__}: {error})")
            return read(self._do(key, stage, make).found)

    def attempt(self, key: str, stage: str, work: Callable[[], Any], impossible: tuple[type[PlanishError], ...] = (PlanishError,)) -> str:
        """Run ``work`` once, and also store whether it failed.

        Args:
            key: key of the attempt.
            stage: see ``once``.
            work: the work; a ``DeviceError``, or an error of another type than ``impossible``, is raised and not stored.
            impossible: types of errors that mean that the work is impossible.

        Returns:
            The message of the error; empty if the work succeeded.
        """

        def attempted() -> str:
            try:
                work()
            except DeviceError:  # with the device, it may be possible
                raise
            except impossible as error:
                return str(error)
            return ""

        return str(self.once(f"attempt:{key}", stage, attempted))

    def first_unfinished(self, call: Callable[[], Any]) -> UnfinishedStep | None:
        """Run ``call`` up to the first step that is not finished. That step is returned, not carried out; None if all are finished."""
        self._stops = True
        try:
            with collecting_notes(silent=True):
                call()
        except _Reached as reached:
            return reached.step
        finally:
            self._stops = False
        return None

    def rows(self) -> list[Row]:
        """Return the rows of all finished steps, oldest first."""
        return self._rows("select * from finished_steps order by finished_at, rowid")

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of steps that were carried out elsewhere; steps that are known already stay as they are."""
        self._db.executemany("insert or ignore into finished_steps values (?, ?, ?, ?, ?, ?, ?)", rows)

    def remembering(self) -> AbstractContextManager[None]:
        """Within this context, decisions (``planish.decisions``) are stored as steps; within a step they always are."""
        return remembering(lambda key, work: self.once(key, "searching", work))

    def has(self, key: str) -> bool:
        """Whether the step had been finished by the current time on the run's clock."""
        step = self._step(key)
        return step is not None and step.elapsed <= self._elapsed

    def seconds(self) -> dict[str, float]:
        """Return the seconds by stage, which add up to the duration of the run.

        ``interrupted`` is the time lost through interruptions, ``other`` the time between steps, and ``starting and reading images`` the
        time before the first step.
        """
        rows = self._rows("select stage, seconds, elapsed from finished_steps order by finished_at, rowid")
        total: dict[str, float] = {}
        if rows:
            total[STARTING] = rows[0][2] - rows[0][1]  # time before the first step
        for stage, seconds, _ in rows:
            total[stage] = total.get(stage, 0.0) + seconds
        total[_OTHER] = max(0.0, max((elapsed for *_, elapsed in rows), default=0.0) - sum(total.values()))
        return total

    def seconds_of(self, key: str) -> float:
        """Return the seconds of a finished step; 0 if it is not finished."""
        step = self._step(key)
        return 0.0 if step is None else step.seconds

    def keys(self) -> list[str]:
        """Return the keys of the finished steps, oldest first."""
        return [key for (key,) in self._rows("select key from finished_steps order by finished_at, rowid")]

    def close(self) -> None:
        """Close the store and release the lock."""
        if self._lock is not None:
            self._lock.release()
        self._db.close()

    def _now(self) -> float:
        return self._before + monotonic() - self._begun

    def _step(self, key: str) -> _Step | None:
        rows = self._rows("select found, notes, seconds, elapsed from finished_steps where key = ?", key)
        with wrap_parse_errors(self._path, BundleError, *_DAMAGED):
            return next((_Step(json.loads(found), tuple(map(str, json.loads(notes))), *times) for found, notes, *times in rows), None)

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise BundleError(f"{self._path} cannot be read: {error}", *_DAMAGED) from error

    def _do(self, key: str, stage: str, work: Callable[[], Any]) -> _Step:
        """Run a step and record it; a repeated step keeps its times, since later decisions were based on them."""
        if self._stops:
            raise _Reached(UnfinishedStep(key, stage, work))
        begun, outer, self._inner_seconds = monotonic(), self._inner_seconds, 0.0
        try:
            with collecting_notes() as notes, self.remembering():
                found = json.loads(json.dumps(work()))
            known = self._step(key)
            if known is None:
                own = monotonic() - begun - self._inner_seconds
                step = _Step(found, tuple(notes), own, max(self._now(), self._elapsed))
            else:
                step = _Step(found, tuple(notes), known.seconds, known.elapsed)
            self._record(key, stage, step)
        finally:
            self._inner_seconds = outer + monotonic() - begun
        return step

    def _record(self, key: str, stage: str, step: _Step) -> None:
        if self._lost:
            number = self._db.execute("select count(*) from finished_steps where stage = ?", (INTERRUPTED,)).fetchone()[0]
            lost, self._lost = self._lost, 0.0
            self._write(f"{INTERRUPTED} {number + 1}", INTERRUPTED, _Step(True, (), lost, self._before))
        self._write(key, stage, step)

    def _write(self, key: str, stage: str, step: _Step) -> None:
        self._db.execute(
            "insert into finished_steps values (:key, :stage, :found, :notes, :seconds, :elapsed, :at) on conflict (key) do update set"
            " found = :found, notes = :notes",
            {
                "key": key, "stage": stage, "found": json.dumps(step.found), "notes": json.dumps(step.notes), "seconds": step.seconds,
                "elapsed": step.elapsed, "at": time(),
            },
        )  # fmt: skip


def check_folder(folder: Path, resume: bool) -> None:
    """Check that a run may use this folder.

    Raises:
        BundleError: the folder contains a run but ``resume`` is False, or other files; there is nothing to resume; or another process is
            working on it.
    """
    if (folder / STORE_FILE).exists():
        check_unlocked(folder)
        if not resume:
            raise BundleError(
                f"{folder} holds a run already", "a run is never overwritten", "add --resume to go on with it, or choose another --out"
            )
    elif resume:
        raise BundleError(f"there is no run in {folder}", "--resume goes on with a run that was started", "leave --resume away to start it")
    elif folder.exists() and (not folder.is_dir() or any(inside.name != LOCK_FILE for inside in folder.iterdir())):
        raise BundleError(f"{folder} is not an empty folder", "a run gets a folder of its own", "choose another --out")


def claim(folder: Path, job: dict[str, Any], resume: bool, begun: float | None = None) -> Store:
    """Lock a run folder for this job and open its store; see ``check_folder``.

    Args:
        folder: folder of the run; created if it does not exist.
        job: settings of the job.
        resume: continue the run in the folder.
        begun: see ``Store``.

    Raises:
        BundleError: the folder cannot be used, or it contains a run with other settings.
    """
    check_folder(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder.absolute().parent)
    lock = RunLock(folder)
    try:
        if not resume and (folder / STORE_FILE).exists():  # another process started in the meantime and has already ended
            check_folder(folder, resume)
        store = Store(folder, lock, begun)
    except BaseException:
        lock.release()
        raise
    try:
        known = store.once("job", "setup", lambda: job)
        different = sorted(k for k in job.keys() | known.keys() if job.get(k) != known.get(k))
        if different:
            what = ", ".join(f"{k} was {known.get(k)!r} and is now {job.get(k)!r}" for k in different)
            raise BundleError(
                f"{folder} was started with other settings: {what}",
                "--resume goes on with the same job",
                "give the same settings, or another --out",
            )
    except BaseException:
        store.close()
        raise
    return store
