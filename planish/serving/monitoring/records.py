"""Reads the log of a service: the records of all replicas in order of time, even while the service is writing."""

from __future__ import annotations

import heapq
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from planish.errors import DataError
from planish.export.bundle.folder import DESCRIPTION
from planish.progress import Stage, note
from planish.serving.monitoring.recorder import LOG_FILE

_TEXT, _NUMBERS = ("model", "version", "bundle"), ("time", "seconds")  # required fields
_OPTIONAL_TEXT, _OPTIONAL_NUMBERS = ("image", "class", "source"), ("confidence", "entropy")
_LONGEST_LINE = 16_000_000  # bytes; longer lines are skipped
UNREADABLE = "cannot be read"
_LATEST = 4e9  # in seconds since 1970: in the year 2096


def records(log: Path, left_out: Counter[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the logged records, the oldest first; unreadable lines are skipped.

    Args:
        log: folder of a service's log, or the folder that contains those of its replicas.
        left_out: the number of skipped lines is added to this counter as ``UNREADABLE``; an incomplete last line does not count.

    Raises:
        DataError: there is no log.
    """
    if not log.is_dir():
        found = "is a file" if log.exists() else "does not exist"
        raise DataError(f"{log} {found}", "a log is a folder", "it is written by: planish serve --log FOLDER")
    folders: dict[Path, list[Path]] = defaultdict(list)
    others = []
    for file in sorted(log.rglob(f"{LOG_FILE}*"), key=lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0):
        if file.name == LOG_FILE or file.name.removeprefix(f"{LOG_FILE}.").isdigit():
            folders[file.parent].append(file)
        else:
            others.append(file)
    if others:  # copies, whose records would count twice, and packed files
        note(
            f"{len(others)} files beside the log are left out, such as {min(others)}: a log is {LOG_FILE}, {LOG_FILE}.1 and so on; unpack "
            "or rename what belongs to it"
        )
    if not folders:
        fix = "this is a bundle; the log comes first: planish monitor LOG BUNDLE" if (log / DESCRIPTION).exists() else ""
        raise DataError(f"{log} has no {LOG_FILE}", "it is written by: planish serve --log FOLDER", fix)
    return _merged(folders, Counter() if left_out is None else left_out)


def _merged(folders: dict[Path, list[Path]], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    with ExitStack() as opened:
        logs = [_open_all(files, opened) for files in folders.values()]  # opened first: an open file survives renaming
        size = sum(os.fstat(file.fileno()).st_size for files in logs for file in files)
        stage = opened.enter_context(Stage("reading the log", size))
        yield from heapq.merge(*(_read(files, stage, left_out) for files in logs), key=lambda record: record["time"])


def _open_all(files: list[Path], opened: ExitStack) -> list[BinaryIO]:
    found: dict[int, BinaryIO] = {}
    for file in files:
        if not file.is_file():
            continue
        try:
            stream = opened.enter_context(file.open("rb"))
        except FileNotFoundError:  # rotation deletes the oldest file
            continue
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}", "it can be read by the user who ran the service alone") from error
        found.setdefault(os.fstat(stream.fileno()).st_ino, stream)  # a file that was renamed meanwhile would be read twice
    return list(found.values())


def _read(files: list[BinaryIO], stage: Stage, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        for line in iter(partial(file.readline, _LONGEST_LINE), b""):
            stage.advance(len(line))
            if (found := _record(line)) is not None:
                yield found
            elif line.endswith(b"\n"):
                left_out[UNREADABLE] += 1


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    found = {name: value for name, value in found.items() if value is not None}  # a value that was not finite is logged as null
    return found if _is_record(found) else None


def _is_record(found: dict[str, Any]) -> bool:
    """Return whether a line has the fields that ``recorder`` writes; optional fields must have the right type if present."""
    return (
        all(isinstance(found.get(name), str) for name in _TEXT)
        and all(_is_number(found.get(name)) and 0 <= found[name] < _LATEST for name in _NUMBERS)
        and all(isinstance(found[name], str) for name in _OPTIONAL_TEXT if name in found)
        and all(_is_number(found[name]) for name in _OPTIONAL_NUMBERS if name in found)
        and isinstance(found.get("boxes", []), list)
        and all(map(_is_box, found.get("boxes", [])))
    )


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, dict)
        and isinstance(box.get("class"), str)
        and _is_number(box.get("confidence"))
        and isinstance(box.get("shares"), list)
        and len(box["shares"]) == 4
        and all(map(_is_number, box["shares"]))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LATEST  # also False for NaN
