"""A number that knows what it is: unit, interval, sample count, device and runtime."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

# The primary metrics as people call them.
METRICS = {"accuracy": "accuracy", "map": "mAP", "mask_map": "mask mAP", "miou": "mIoU"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measurement:
    """One measured number. No bare number crosses from one room to another.

    Args:
        name: what was measured, in the design's words: ``accuracy``, ``latency_ms``, ``size_bytes``.
        value: the number, in ``unit``.
        unit: ``%``, ``ms``, ``bytes``, ``ratio``, ``points``, ``s``, ``nats``; empty for a bare number (a temperature).
        n: how many samples stand behind it (images, rounds, files).
        higher_is_better: direction, so that nobody downstream has to know the name.
        low: lower end of the 95% interval; None where the number is exact (a file size).
        high: upper end of the 95% interval.
        device: what it was measured on, empty where it does not matter.
        runtime: what ran the model, empty where none did.
    """

    name: str
    value: float
    unit: str
    n: int
    higher_is_better: bool
    low: float | None = None
    high: float | None = None
    device: str = ""
    runtime: str = ""

    def __str__(self) -> str:
        digits = 0 if self.unit == "bytes" else 3 if self.unit == "ms" else 2
        text = f"{self.value:,.{digits}f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"
        return f"{text} {self.unit}".rstrip()
