"""Parsing of values in YOLO label files, in the variants that tools write."""

from __future__ import annotations

import codecs
import math
from pathlib import Path

_HEAD = 10_000  # bytes read from the start of a file


def class_number(word: str) -> int | None:
    """The class index, which some tools write as a decimal (``1.0``, ``1.000e+00``); None if ``word`` is not a class index."""
    try:
        value = float(word)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value >= 0 and value == int(value) else None


def has_label_line(text: Path) -> bool:
    """Whether the first non-blank line has at least five numbers, or the file is UTF-16, which is rejected later when it is read."""
    if not text.is_file():
        return False
    with text.open("rb") as opened:
        head = opened.read(_HEAD)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    words = next((line.split() for line in head.removeprefix(codecs.BOM_UTF8).replace(b",", b" ").splitlines() if line.strip()), [])
    try:
        return len([float(word) for word in words]) > 4
    except ValueError:
        return False
