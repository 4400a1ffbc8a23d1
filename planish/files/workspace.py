"""Where techniques put the files they make until whoever runs them keeps or drops those, and how files and folders are replaced whole.

What is written here is on the disk itself when it takes its name: after a power cut a name stands for all of its content, or for the
former one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from planish.errors import DataError

_folder: ContextVar[Path | None] = ContextVar("planish_workspace", default=None)


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Within this block techniques write below ``folder``; outside, below a temporary folder that goes when Python exits."""
    token = _folder.set(folder)
    try:
        yield folder
    finally:
        _folder.reset(token)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write; it takes the name ``path`` when the block ends well, once its content is on the disk.

    Raises:
        DataError: there is a folder of that name.
    """
    partial = path.with_name(path.name + ".partial")
    for place in (path, partial):
        if place.is_dir():
            raise DataError(f"{place} is a folder", "a file of that name is written", "remove it, or choose another name")
    yield partial
    sync(partial)
    partial.replace(path)
    _sync_name(path)


def replace_folder(folder: Path, whole: Path) -> None:
    """Give the folder ``whole``, which lies beside it, the name ``folder``; an earlier one goes only when the new one is in its place."""
    sync_all(whole)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    whole.rename(folder)
    _sync_name(folder)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_all(folder: Path) -> None:
    """The same for all that is in a folder."""
    for inside in (*folder.rglob("*"), folder):
        sync(inside)


def _sync_name(path: Path) -> None:
    """Its own name, and that of the folder it lies in, which may be new as well."""
    for folder in list(path.absolute().parents)[:2]:
        sync(folder)


def lasting_file(name: str) -> Path | None:
    """A file in the workspace by which interrupted work goes on when it is done again; None outside of any workspace."""
    folder = _folder.get()
    return None if folder is None else folder / name


def fresh_folder(prefix: str) -> Path:
    """A new, empty folder in the workspace whose name begins with ``prefix``."""
    parent = _folder.get() or _scratch()
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="planish-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_root(cache_dir: Path | None) -> Path:
    """The folder for what can be made again: ``cache_dir``, else ``$PLANISH_CACHE``, else ``~/.cache/planish``; made if need be.

    Raises:
        DataError: it cannot be written.
    """
    root = Path(cache_dir or os.environ.get("PLANISH_CACHE") or "~/.cache/planish").expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise DataError(
            f"the cache folder {str(root)!r} cannot be written: {error.strerror}", "", "set PLANISH_CACHE to one that can"
        ) from error
    return root
