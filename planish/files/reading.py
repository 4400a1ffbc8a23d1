"""Reading files that others wrote: within bounds, and damaged ones refused in one way.

Whatever a file holds, reading it ends in a value or in a ``PlanishError``. Parsers raise nearly every built-in exception on a damaged file
(a JSON of 100,000 brackets a ``RecursionError``, a date that does not exist a ``ValueError``), so they are turned into one here and not by
every reader for itself.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from planish.errors import PlanishError, first_line

MOST_JSON_BYTES = 1 << 30
# What parsing, and using what was parsed, raises on a damaged file. MemoryError is of the machine, not of the file.
DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, EOFError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


@contextmanager
def damage_reported(file: Path, error: type[PlanishError], rule: str, fix: str = "") -> Iterator[None]:
    """Within this block, what a damaged file raises becomes an ``error`` that names the file; a ``PlanishError`` passes as it is.

    Args:
        file: that is read.
        error: the kind of error.
        rule: what the file should be.
        fix: see ``PlanishError``.
    """
    try:
        yield
    except DAMAGED as cause:
        raise error(f"{file} cannot be read: {describe(cause)}", rule, fix) from cause


def describe(error: BaseException) -> str:
    """A parser's error in a line: ``KeyError: 'images'``."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {first_line(error)}"


def read_bytes(file: Path, max_bytes: int = MOST_JSON_BYTES) -> bytes:
    """The content of a regular file; devices and pipes, which may never end, are not opened.

    Raises:
        OSError: it is not there, not a regular file, or larger.
    """
    require_regular(file, max_bytes)
    return file.read_bytes()


def real_path(path: Path) -> Path:
    """The path without links; ``Path.resolve`` raises where links lead in a circle, or a name cannot be one."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path


def require_regular(file: Path, max_bytes: int | None = None) -> None:
    """See that a file is one that ends.

    Raises:
        OSError: it is not there, a folder, a pipe or a device, or larger than ``max_bytes``.
    """
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(kind, "it is a folder" if kind == errno.EISDIR else "it is not a regular file", str(file))
    if max_bytes is not None and found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, at most {max_bytes:,} are read", str(file))


class _BoundedFile(io.BufferedReader):
    """Reads no more at once than is there: a read reserves memory for its size, and damaged files make parsers request gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_bounded(file: Path) -> BinaryIO:
    """Open a regular file for a parser that reads as much as the file names; see ``read_bytes``.

    Raises:
        OSError: see ``read_bytes``.
    """
    require_regular(file)
    return _BoundedFile(io.FileIO(file))


def read_text(file: Path, max_bytes: int = MOST_JSON_BYTES, errors: str = "strict") -> str:
    """The same as text in UTF-8, with or without a byte order mark.

    ``errors="surrogateescape"`` is for lists of file names, which need not be UTF-8.

    Raises:
        OSError: see ``read_bytes``.
        ValueError: it is not UTF-8.
    """
    return read_bytes(file, max_bytes).decode("utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")


def read_json(file: Path, max_bytes: int = MOST_JSON_BYTES) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: see ``read_bytes``.
        ValueError: it is not JSON in UTF-8.
        RecursionError: it is nested too deeply.
    """
    return json.loads(read_text(file, max_bytes))
