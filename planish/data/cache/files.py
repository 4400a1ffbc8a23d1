"""Helpers of the on-disk cache: content keys, atomic writes, parallel work and file hashes.

Cache entries are written under a temporary name and renamed when complete, so a killed process leaves no incomplete entry, and of two
processes that create the same entry the first one wins and both use it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from planish.errors import DataError
from planish.files.reading import describe, require_regular
from planish.files.workspace import sync_all
from planish.progress import note

T = TypeVar("T")
_Stamp = tuple[bytes, str]  # path of a file; size, modification time and inode
_LOCK_SECONDS = 60  # for which another process that writes the file hashes is waited for
_STALE_SECONDS = 3600
_PARTIAL = re.compile(r"partial-[0-9a-f]{32}")
_CHUNK = 64


def key_of(*parts: object) -> str:
    """A cache key: the hash of ``parts``, where arrays and bytes contribute all of their bytes and other objects their ``repr``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


@contextmanager
def whole(final: Path, *, file_by_file: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``final`` when the block succeeds and deleted otherwise.

    Before that its content is synced to disk: each file, or for many files the whole disk at once.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final.parent)
    partial = final.parent / f"partial-{uuid.uuid4().hex}"
    partial.mkdir()
    try:
        yield partial
        sync_all(partial) if file_by_file else os.sync()
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # otherwise another process created the same entry in the meantime
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def full_disk_reported(folder: Path, needed_bytes: Callable[[], float]) -> Iterator[None]:
    """Convert the OSError of a full disk to a DataError that states how much space is needed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"the disk of the cache folder {str(folder)!r} is full ({free / 1e6:,.0f} MB free)",
            f"about {needed_bytes() / 1e6:,.0f} MB are needed",
            "make room, set a --cache-size, or set PLANISH_CACHE to a folder on another disk",
        ) from error


def in_threads(work: Callable[[int], T], count: int) -> Iterator[list[T]]:
    """Yield ``work(0) ... work(count - 1)`` in order, in chunks of results; only a few chunks are in flight at a time.

    Pillow and hashing release the GIL, so threads are sufficient.
    """
    workers = min(8, os.cpu_count() or 1)
    starts = range(0, count, _CHUNK)

    def chunk(start: int) -> list[T]:
        return [work(i) for i in range(start, min(start + _CHUNK, count))]

    pending: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in starts:
                pending.append(pool.submit(chunk, start))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def content_hashes(paths: Sequence[Path], root: Path) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """SHA-256 of every file, ``(N, 32)``, and the reasons, by index, why some cannot be read (their rows are 0).

    A file that has the path, size, modification time and inode of an earlier call is not read again.
    """
    bad: dict[int, str] = {}
    stamps: dict[int, _Stamp] = {}
    for i, path in enumerate(paths):
        try:
            stat = os.stat(path)
            stamps[i] = os.fsencode(path.absolute()), f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        except (OSError, ValueError) as error:  # ValueError: invalid file name
            bad[i] = f"cannot be read: {describe(error)}"
    table = root / "hashes.sqlite"
    found = _stored_hashes(table, stamps)
    unknown = [i for i in stamps if i not in found]

    def digest(k: int) -> bytes | str:
        path = paths[unknown[k]]
        try:
            require_regular(path)
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except (OSError, ValueError) as error:
            return f"cannot be read: {describe(error)}"

    new: dict[int, bytes] = {}
    for i, result in zip(unknown, chain.from_iterable(in_threads(digest, len(unknown))), strict=True):
        if isinstance(result, str):
            bad[i] = result
        else:
            new[i] = result
    if new:
        _store_hashes(table, [(*stamps[i], value) for i, value in new.items()])
    found |= new
    return np.frombuffer(b"".join(found.get(i, bytes(32)) for i in range(len(paths))), dtype=np.uint8).reshape(-1, 32), bad


def _stored_hashes(table: Path, stamps: Mapping[int, _Stamp]) -> dict[int, bytes]:
    """The stored SHA-256 of the files that have not changed, by index."""
    select = "select sha256 from hashes where path = ? and stamp = ?"
    try:
        with _opened(table) as db:
            rows = {i: db.execute(select, stamp).fetchone() for i, stamp in stamps.items()}
    except sqlite3.Error as error:
        note(f"the file hashes in {table} cannot be read, so all files are: {error}")
        return {}
    return {i: row[0] for i, row in rows.items() if row is not None}


def _store_hashes(table: Path, rows: Sequence[tuple[bytes, str, bytes]]) -> None:
    """Store path, stamp and SHA-256 of files, replacing what was stored for the same paths."""
    with suppress(sqlite3.Error), _opened(table) as db:  # without them, the files are read again next time
        db.executemany("insert or replace into hashes values (?, ?, ?)", rows)


@contextmanager
def _opened(table: Path) -> Iterator[sqlite3.Connection]:
    """Yield the database of file hashes; what the block writes is committed when it succeeds."""
    with closing(sqlite3.connect(table, timeout=_LOCK_SECONDS)) as db, db:
        db.execute("create table if not exists hashes (path blob primary key, stamp text, sha256 blob) without rowid")
        yield db


def _sweep(folder: Path) -> None:
    """Delete temporary folders that killed processes left behind; running processes keep modifying theirs.

    Only names that ``whole`` gives are deleted: the folder may be the user's own, as it is for tiles.
    """
    for left in folder.glob("partial-*"):
        if _PARTIAL.fullmatch(left.name) is None:
            continue
        try:
            newest = max(p.stat().st_mtime for p in (left, *left.iterdir()))
        except OSError:
            continue
        if time.time() - newest > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
