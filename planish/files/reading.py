"""Reading of files from other sources: with size limits, and with one kind of error for damaged files.

Whatever a file contains, reading it either returns a value or raises a ``PlanishError``. Parsers raise nearly every built-in exception on
damaged files (``RecursionError`` for JSON with 100,000 brackets, ``ValueError`` for a date that does not exist), so these are converted
here, not in every reader.
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
# The exceptions of parsing a damaged file, and of using the result. MemoryError is about the machine, not about the file.
DAMAGED = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError, EOFError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


@contextmanager
def wrap_parse_errors(file: Path, error: type[PlanishError], rule: str, fix: str = "") -> Iterator[None]:
    """Convert the exceptions of a damaged file within this block to an ``error`` that names the file; a ``PlanishError`` is not changed.

    Args:
        file: the file that is read.
        error: type of the error.
        rule: what the file should be.
        fix: see ``PlanishError``.
    """
    try:
        yield
    except DAMAGED as cause:
        raise error(f"{file} cannot be read: {describe(cause)}", rule, fix) from cause


def describe(error: BaseException) -> str:
    """Describe a parser's exception in one line: ``KeyError: 'images'``."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {first_line(error)}"


def read_bytes(file: Path, max_bytes: int = MOST_JSON_BYTES) -> bytes:
    """Read a regular file; devices and pipes, which may never end, are not opened.

    Raises:
        OSError: it does not exist, is not a regular file, or is larger than ``max_bytes``.
    """
    require_regular(file, max_bytes)
    return file.read_bytes()


def real_path(path: Path) -> Path:
    """Resolve all links of a path. Unlike ``Path.resolve``, this does not raise for circular links or invalid names."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path


def require_regular(file: Path, max_bytes: int | None = None) -> None:
    """Check that a file is a regular file, which has an end.

    Raises:
        OSError: it does not exist, is a folder, a pipe or a device, or is larger than ``max_bytes``.
    """
    try:
        found = file.stat()
    except ValueError as error:
        raise OSError(errno.EINVAL, f"no file can have that name: {error}", str(file)) from error
    if not stat.S_ISREG(found.st_mode):
        kind = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(kind, "it is a folder" if kind == errno.EISDIR else "it is not a regular file", str(file))
    if max_bytes is not None and found.st_size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, at most {max_bytes:,} are read", str(file))


class _BoundedFile(io.BufferedReader):
    """A reader that never requests more bytes than the file has left: reads allocate memory for their size, and damaged files can make
    parsers request gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def open_bounded(file: Path) -> BinaryIO:
    """Open a regular file for a parser that reads as many bytes as the file declares.

    Raises:
        OSError: see ``read_bytes``.
    """
    require_regular(file)
    return _BoundedFile(io.FileIO(file))


def read_text(file: Path, max_bytes: int = MOST_JSON_BYTES, errors: str = "strict") -> str:
    """Read a regular file as UTF-8 text, with or without a byte order mark.

    ``errors="surrogateescape"`` is for lists of file names, which need not be UTF-8.

    Raises:
        OSError: see ``read_bytes``.
        ValueError: it is not UTF-8.
    """
    return read_bytes(file, max_bytes).decode("utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")


def read_json(file: Path, max_bytes: int = MOST_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        OSError: see ``read_bytes``.
        ValueError: it is not JSON in UTF-8.
        RecursionError: it is nested too deeply.
    """
    return json.loads(read_text(file, max_bytes))
