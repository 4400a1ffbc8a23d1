"""The memory of a run: which steps are finished and what they found. Killed at any moment, it loses at most the step under way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Float, String, Text, create_engine, event, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from planish.errors import BundleError


class _Base(DeclarativeBase):
    pass


class _Finished(_Base):
    __tablename__ = "finished_steps"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    stage: Mapped[str] = mapped_column(String(40))
    found: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[float] = mapped_column(Float)


class Store:
    """Finished steps by key, with what each found (JSON values) and the seconds it took.

    Files that a step makes are in place before its row is written, so a row means that the whole step is there.

    Args:
        url: where it lives, a SQLAlchemy URL; ``Store.at(folder)`` is the usual SQLite file.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self._inner_seconds = 0.0  # of steps within the step under way, which are counted as their own
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _durable)
        _Base.metadata.create_all(self._engine)

    @classmethod
    def at(cls, folder: Path) -> Store:
        return cls(f"sqlite:///{folder / 'store.sqlite'}")

    @property
    def engine(self) -> Engine:
        return self._engine

    def get(self, key: str) -> Any | None:
        """What the step of that key found, None if it is not finished."""
        with Session(self._engine) as session:
            row = session.get(_Finished, key)
            return None if row is None else json.loads(row.found)

    def put(self, key: str, found: Any, *, stage: str, seconds: float) -> None:
        with Session(self._engine) as session, session.begin():
            session.merge(_Finished(key=key, stage=stage, found=json.dumps(found), seconds=seconds, finished_at=time.time()))

    def once(self, key: str, stage: str, work: Callable[[], Any]) -> Any:
        """What ``work()`` returns, from the store if it was done before."""
        found = self.get(key)
        if found is None:
            start, outer, self._inner_seconds = time.monotonic(), self._inner_seconds, 0.0
            try:
                found = json.loads(json.dumps(work()))
                self.put(key, found, stage=stage, seconds=time.monotonic() - start - self._inner_seconds)
            finally:
                self._inner_seconds = outer + time.monotonic() - start
        return found

    def seconds(self) -> dict[str, float]:
        """Seconds spent by stage, over all sittings."""
        with Session(self._engine) as session:
            total: dict[str, float] = {}
            for row in session.scalars(select(_Finished).order_by(_Finished.finished_at)):
                total[row.stage] = total.get(row.stage, 0.0) + row.seconds
            return total

    def seconds_of(self, key: str) -> float:
        """Seconds that one finished step took, 0 if it is not finished."""
        with Session(self._engine) as session:
            row = session.get(_Finished, key)
            return 0.0 if row is None else row.seconds

    def keys(self) -> list[str]:
        """Keys of the finished steps, oldest first."""
        with Session(self._engine) as session:
            return list(session.scalars(select(_Finished.key).order_by(_Finished.finished_at)))

    def close(self) -> None:
        self._engine.dispose()


def _durable(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def check_folder(folder: Path, resume: bool) -> None:
    """See that a run may use this folder.

    Raises:
        BundleError: it holds a run and ``resume`` was not asked for, or something else; or there is nothing to resume.
    """
    if (folder / "store.sqlite").exists():
        if not resume:
            raise BundleError(
                f"{folder} holds a run already", "a run is never overwritten", "add --resume to go on with it, or choose another --out"
            )
    elif resume:
        raise BundleError(f"there is no run in {folder}", "--resume goes on with a run that was started", "leave --resume away to start it")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} is not an empty folder", "a run gets a folder of its own", "choose another --out")


def claim(folder: Path, job: dict[str, Any], resume: bool) -> Store:
    """Open the store of a run folder for this job; see ``check_folder``.

    Raises:
        BundleError: the folder cannot be used, or it holds a run of another job.
    """
    check_folder(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.at(folder)
    known = store.once("job", "setup", lambda: job)
    different = sorted(k for k in job.keys() | known.keys() if job.get(k) != known.get(k))
    if different:
        what = ", ".join(f"{k} was {known.get(k)!r} and is now {job.get(k)!r}" for k in different)
        raise BundleError(
            f"{folder} was started with other settings: {what}",
            "--resume goes on with the same job",
            "give the same settings, or another --out",
        )
    return store
