"""Where techniques put the files they make until whoever runs them keeps or drops those, and how a folder is replaced whole."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

_folder: ContextVar[Path | None] = ContextVar("planish_workspace", default=None)


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Within this block techniques write below ``folder``; outside, below a temporary folder that goes when Python exits."""
    token = _folder.set(folder)
    try:
        yield folder
    finally:
        _folder.reset(token)


def replace_folder(folder: Path, whole: Path) -> None:
    """Give the folder ``whole``, which lies beside it, the name ``folder``; an earlier one goes only when the new one is in its place."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    whole.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
