"""The size limit of the image cache: what was used least recently is deleted for what is new."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from planish.errors import DataError, GoalError
from planish.files.workspace import CACHE_SIZE
from planish.units import size_bytes

_SHARE = 0.5  # default limit, as a share of what the disk has free and the cache takes
_FAMILIES = ("decoded", "resized")


def cache_limit(root: Path) -> float:
    """Return the most bytes that decoded and resized images may take in a cache folder: ``$PLANISH_CACHE_SIZE``, such as ``20GB``, or 0 to
    keep no images; by default half of what the disk would have free without them.

    Raises:
        DataError: the variable is not a size.
    """
    text = os.environ.get(CACHE_SIZE, "").strip()
    if not text:
        return _SHARE * (shutil.disk_usage(root).free + sum(entry.size_bytes for entry in _entries(root)))
    try:
        return 0.0 if text == "0" else float(size_bytes(text))
    except GoalError as error:
        raise DataError(f"the cache size {text!r} is not a size", "it is a number with a unit, or 0", "for example 20GB") from error


def make_room(root: Path, needed_bytes: float, keep: str = "") -> bool:
    """Delete the entries used least recently, if that makes room for a new one.

    Args:
        root: the cache folder.
        needed_bytes: size of the new entry.
        keep: key of an entry that is not deleted, as the new one is made from it.

    Returns:
        Whether there is room. If not, nothing is deleted.
    """
    entries = sorted(_entries(root), key=lambda entry: entry.used_at)
    excess = sum(entry.size_bytes for entry in entries) + needed_bytes - cache_limit(root)
    chosen = []
    for entry in entries:
        if excess <= 0:
            break
        if entry.folder.name != keep:
            chosen.append(entry.folder)
            excess -= entry.size_bytes
    if excess > 0:
        return False
    for folder in chosen:  # processes that use one of them keep its open files
        shutil.rmtree(folder, ignore_errors=True)
    return True


def used(entry: Path) -> None:
    """Record that an entry is used now."""
    os.utime(entry)


@dataclass(frozen=True)
class _Entry:
    folder: Path
    used_at: float
    size_bytes: int


def _entries(root: Path) -> list[_Entry]:
    found = []
    for folder in (each for family in _FAMILIES for each in (root / family).glob("*") if not each.name.startswith("partial-")):
        with suppress(OSError):  # another process is deleting it
            found.append(_Entry(folder, folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())))
    return found
