"""Parsing of quantities with units, as on the command line: ``5ms``, ``4MB``, ``20m``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from planish.errors import GoalError

ImageSize = int | str  # 224, or HEIGHTxWIDTH

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def milliseconds(text: str | float) -> float:
    """Parse ``5ms``, ``0.8 ms`` or ``800us`` to milliseconds; a bare number is in milliseconds."""
    return _quantity(text, _MILLISECONDS, 1.0, "a latency", "5ms, 800us or 0.1s")


def size_bytes(text: str | float) -> int:
    """Parse ``4MB`` (1 MB = 10^6 bytes) or ``512KiB`` (1 KiB = 2^10 bytes) to bytes; a bare number is in bytes."""
    return round(_quantity(text, _BYTES, 1, "a size", "4MB, 512KiB or 4000000"))


def seconds(text: str | float) -> float:
    """Parse ``20m``, ``90s``, ``1.5h``, ``1h30m`` or ``1h 30m`` to seconds; a bare number is in seconds."""
    if isinstance(text, str):
        together = re.sub(r"\s", "", text.lower())
        parts = re.findall(r"[\d.]+[a-z]+", together)
        above_zero = [part for part in parts if re.search("[1-9]", part)]  # 1h0m
        if len(parts) > 1 and "".join(parts) == together and above_zero:
            return sum(seconds(part) for part in above_zero)
    return _quantity(text, _SECONDS, 1.0, "a time", "20m, 90s or 1h30m")


def image_sides(size: ImageSize) -> tuple[int, int]:
    """Parse an image size, ``224`` or ``48x192``, to height and width in pixels.

    Raises:
        GoalError: it is neither, or a side is not between 8 and 2048 pixels.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:x\s*(\d{1,9})\s*)?", str(size).lower())
    sides = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(8 <= side <= 2048 for side in sides):
        raise GoalError(
            f"an image size of {size} pixels", "it is a number of pixels between 8 and 2048, or two of them, HEIGHTxWIDTH",
            "for example 224 or 48x192",
        )  # fmt: skip
    return sides


def has_both_sides(size: ImageSize | None) -> bool:
    """Whether an image size sets height and width apart."""
    return "x" in str(size).lower()


def _quantity(text: str | float, units: Mapping[str, float], bare: float, what: str, examples: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)\s*", str(text).lower().replace("\u03bc", "µ"))  # the Greek letter
    if match is None or (match[2] and match[2] not in units):
        raise GoalError(f"{str(text)!r} is not {what}", f"write a number and a unit: {', '.join(units)}", f"for example {examples}")
    value = float(match[1]) * (units[match[2]] if match[2] else bare)
    if value <= 0:
        raise GoalError(f"{str(text)!r} is not above zero", f"{what} is more than nothing", f"for example {examples}")
    return value
