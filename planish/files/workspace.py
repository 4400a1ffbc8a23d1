"""The workspace, the folder in which techniques create files until their caller keeps or deletes them; and atomic replacement.

Content is synced to disk before it is renamed into place: after a power failure, a name refers to either the complete new content or the
previous one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from planish.errors import DataError

CACHE_SIZE = "PLANISH_CACHE_SIZE"  # environment variable with the limit of the image cache, see planish.data.cache.limit

_folder: ContextVar[Path | None] = ContextVar("planish_workspace", default=None)


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make techniques write to ``folder`` within this block; otherwise they write to a temporary folder, deleted when Python exits."""
    token = _folder.set(folder)
    try:
        yield folder
    finally:
        _folder.reset(token)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write; when the block ends without an error, it is synced to disk and renamed to ``path``.

    Raises:
        DataError: there is a folder with that name.
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
    """Rename the complete folder ``whole``, which is next to it, to ``folder``; an existing one is deleted only after that."""
    sync_all(whole)
    aside = None
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))  # a name that no folder of the user's has
        folder.rename(aside / folder.name)
    whole.rename(folder)
    _sync_name(folder)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or the entries of a folder, are on disk.

    Folders that cannot be synced are left out: /home, which on many shared machines only its owner may list, or those of a network drive.
    """
    with suppress(OSError) if path.is_dir() else nullcontext():
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def sync_all(folder: Path) -> None:
    """Wait until a folder and everything in it are on disk."""
    for inside in (*folder.rglob("*"), folder):
        sync(inside)


def _sync_name(path: Path) -> None:
    """Wait until the name of a path is on disk, and that of its folder, which may be new as well."""
    for folder in list(path.absolute().parents)[:2]:
        sync(folder)


def resume_file(name: str) -> Path | None:
    """The path of a file in the workspace from which interrupted work is resumed; None outside of any workspace."""
    folder = _folder.get()
    return None if folder is None else folder / name


def fresh_folder(prefix: str) -> Path:
    """Create an empty folder in the workspace whose name begins with ``prefix``."""
    parent = _folder.get() or _scratch()
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="planish-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_root(cache_dir: Path | None) -> Path:
    """The folder for files that can be recreated: ``cache_dir``, else ``$PLANISH_CACHE``, else ``~/.cache/planish``; created if necessary.

    Raises:
        DataError: it cannot be written to.
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
