"""Workers that take their steps from a PostgreSQL database: any number of processes of ``planish worker``, and the run itself."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from planish.errors import DeviceError, TechniqueError, first_line
from planish.progress import note
from planish.runs.workers.parcel import Outcome, Parcel, parts_of, perform

_NAME = "planish worker on "  # followed by the host: how the database lists a worker
_RUN, _STEP = 1, 2  # kinds of advisory locks
_PAUSE = 0.3  # seconds between two looks for a step
_TRIES = 3  # of a step whose process ends
_TABLES = """
create table if not exists planish_runs (id serial primary key);
create table if not exists planish_steps (
    id serial primary key, run int not null, content bytea not null, tries int not null default 0, outcome bytea);
create table if not exists planish_files (run int not null, name text not null, part int not null, content bytea not null,
    primary key (run, name, part));
"""
_KEPT_ALIVE: dict[str, Any] = {"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3}


class DatabaseWorkers:
    """The processes of ``planish worker`` that are connected to a database, and this one.

    Who carries out a step holds an advisory lock on it, which PostgreSQL releases when the connection ends, however that happens; the step
    is then free for another process. The run holds one too: without it, its steps are deleted.

    Args:
        url: ``postgresql://user@host/database``.

    Raises:
        TechniqueError: the driver is not installed.
        DeviceError: the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._database = _connected(url, "planish run")
        for (run,) in self._database.execute("select id from planish_runs").fetchall():
            _forget_if_ended(self._database, run)
        self._run = int(self._one("select nextval('planish_runs_id_seq')"))
        self._database.execute("select pg_advisory_lock(%s, %s)", (_RUN, self._run))
        self._database.execute("insert into planish_runs values (%s)", (self._run,))
        self._uploaded: set[str] = set()

    @property
    def count(self) -> int:
        """The number of connected workers, and this process."""
        with _reaching_it():
            return 1 + len(self._hosts())

    def _hosts(self) -> list[str]:
        query = "select application_name from pg_stat_activity where datname = current_database() and application_name like %s"
        return [name.removeprefix(_NAME) for (name,) in self._database.execute(query, (_NAME + "%",)).fetchall()]

    def results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        """See ``Workers.results``."""
        with _reaching_it():
            yield from self._results(parcels)

    def _results(self, parcels: Iterable[Parcel]) -> Iterator[tuple[int, Outcome]]:
        waiting, files = dict[int, int](), dict[str, Path]()
        try:
            for index, parcel in enumerate(parcels):
                files |= parcel.files
                self._upload(files)
                waiting[
                    int(self._one("insert into planish_steps (run, content) values (%s, %s) returning id", self._run, parcel.content))
                ] = index
            while waiting:
                finished = "select id, outcome from planish_steps where run = %s and id = any(%s) and outcome is not null"
                for step, outcome in self._database.execute(finished, (self._run, list(waiting))).fetchall():
                    yield waiting.pop(step), pickle.loads(outcome)
                for step in self._given_up(list(waiting)):
                    yield waiting.pop(step), Outcome(error=f"it ended {_TRIES} processes that tried it")
                self._upload(files)
                if waiting and not carry_out_one(self._database, run=self._run):
                    sleep(_PAUSE)
        finally:
            with suppress(DeviceError), _reaching_it():
                self._database.execute("delete from planish_steps where run = %s", (self._run,))

    def _add(self, content: bytes) -> int:
        return int(self._one("insert into planish_steps (run, content) values (%s, %s) returning id", self._run, content))

    def _given_up(self, steps: list[int]) -> list[int]:
        """Return those of the steps that were begun too often and that no process is carrying out."""
        found = []
        query = "select id from planish_steps where id = any(%s) and outcome is null and tries >= %s"
        for (step,) in self._database.execute(query, (steps, _TRIES)).fetchall():
            with _claimed(self._database, _STEP, step) as free:
                if free:
                    found.append(step)
        return found

    def _upload(self, files: Mapping[str, Path]) -> None:
        """Store the files that are not stored yet, once there is a worker on another machine."""
        if set(self._hosts()) <= {socket.gethostname()}:
            return
        for name in files.keys() - self._uploaded:
            self._uploaded.add(name)
            for number, part in enumerate(parts_of(files[name])):
                self._database.execute("insert into planish_files values (%s, %s, %s, %s)", (self._run, name, number, part))

    def _one(self, query: str, *values: Any) -> Any:
        return self._database.execute(query, values).fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(DeviceError), _reaching_it():
            _forget(self._database, self._run)
        self._database.close()


def work_for(url: str, idle: float | None, watch: Callable[[str], None] = note) -> int:
    """Carry out the steps of all runs that use a database, until Ctrl-C.

    Args:
        url: see ``DatabaseWorkers``.
        idle: end after this many seconds without a step; None for never.
        watch: called with a line of text for each step.

    Returns:
        The number of steps carried out.

    Raises:
        TechniqueError: the driver is not installed.
        DeviceError: the database cannot be reached.
    """
    database = _connected(url, _NAME + socket.gethostname())
    done, since = 0, monotonic()
    with database, _reaching_it():
        watch("waiting for steps of runs with this database as --workers; Ctrl-C ends")
        while idle is None or monotonic() - since < idle:
            begun = monotonic()
            if not carry_out_one(database):
                sleep(_PAUSE)
                continue
            done, since = done + 1, monotonic()
            watch(f"step {done} carried out in {since - begun:.0f} s")
    return done


def carry_out_one(database: Any, run: int | None = None) -> bool:
    """Carry out one step that no other process is carrying out; return whether there was one.

    Args:
        database: the connection.
        run: number of the run; None for any.
    """
    query = "select id, run from planish_steps where outcome is null and tries < %s and (%s::int is null or run = %s) order by id"
    for step, owner in database.execute(query, (_TRIES, run, run)).fetchall():
        if run is None and _forget_if_ended(database, owner):
            continue
        with _claimed(database, _STEP, step) as free:
            still = (
                free
                and database.execute(
                    "update planish_steps set tries = tries + 1 where id = %s and outcome is null returning content", (step,)
                ).fetchone()
            )
            if still:
                outcome = perform(still[0], partial(_parts, database, owner))
                database.execute("update planish_steps set outcome = %s where id = %s", (pickle.dumps(outcome), step))
                return True
    return False


def _parts(database: Any, run: int, name: str) -> Iterable[bytes]:
    numbers = database.execute("select part from planish_files where run = %s and name = %s order by part", (run, name)).fetchall()
    if not numbers:
        raise DeviceError("the images of this run are not on this machine", "they are sent to workers that were there when it began")
    for (number,) in numbers:
        query = "select content from planish_files where run = %s and name = %s and part = %s"
        yield database.execute(query, (run, name, number)).fetchone()[0]


def _forget_if_ended(database: Any, run: int) -> bool:
    """Delete everything of a run if its process has ended; return whether it has."""
    with _claimed(database, _RUN, run) as ended:
        if ended:
            _forget(database, run)
    return ended


def _forget(database: Any, run: int) -> None:
    """Delete everything of a run."""
    for table, column in (("planish_steps", "run"), ("planish_files", "run"), ("planish_runs", "id")):
        database.execute(f"delete from {table} where {column} = %s", (run,))


@contextmanager
def _claimed(database: Any, kind: int, number: int) -> Iterator[bool]:
    """Within this block, hold an advisory lock; yields whether it was free."""
    free = bool(database.execute("select pg_try_advisory_lock(%s, %s)", (kind, number)).fetchone()[0])
    try:
        yield free
    finally:
        if free and not database.closed:
            database.execute("select pg_advisory_unlock(%s, %s)", (kind, number))


def _connected(url: str, name: str) -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise TechniqueError("workers on PostgreSQL need psycopg", "it is not installed", 'pip install "planish[postgresql]"') from error
    with _reaching_it():
        database = psycopg.connect(url, autocommit=True, application_name=name, **_KEPT_ALIVE)
        database.execute("select pg_advisory_lock(0, 0)")  # two processes must not create the tables at the same time
        database.execute(_TABLES)
        database.execute("select pg_advisory_unlock(0, 0)")
    return database


@contextmanager
def _reaching_it() -> Iterator[None]:
    """Within this block, errors of the database are ``DeviceError``."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise DeviceError(f"the database cannot be used: {first_line(error)}") from error
