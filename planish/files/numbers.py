"""Cached measurements of a machine: numbers by key, in a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path


def read_numbers(file: Path) -> dict[str, float]:
    """Read the numbers in a file; returns none if it is missing or damaged, so that they are measured again."""
    try:
        return {str(key): float(value) for key, value in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_numbers(file: Path, known: dict[str, float]) -> None:
    """Write the file atomically; if two processes write at the same time, the later one wins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(known))
    partial.replace(file)
