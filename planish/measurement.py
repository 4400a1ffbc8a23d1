"""A number with its unit, interval, sample count, device and runtime."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measurement:
    """One measured number. No bare number crosses from one room to another.

    Args:
        name: what was measured: ``accuracy``, ``latency_ms``, ``size_bytes``.
        value: the number, in ``unit``.
        unit: ``%``, ``ms``, ``bytes``, ``ratio``, ``points``, ``s``, ``nats``; empty for a bare number (a temperature).
        n: how many samples stand behind it (images, rounds, files).
        higher_is_better: whether a larger value is better.
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


_WORDS = {
    "map": "mAP", "map_50": "mAP50", "map_75": "mAP75", "map_small": "mAP of small objects", "map_medium": "mAP of medium objects",
    "map_large": "mAP of large objects", "mar_100": "mean recall", "mar": "mean recall",
    "miou": "mIoU", "iou": "IoU", "dice": "Dice", "f1": "F1",
}  # fmt: skip


def in_words(name: str) -> str:
    """A metric's name as people say it: ``mAP``, ``mask mAP50``, ``accuracy``.

    Example:
        >>> in_words("mask_map"), in_words("miou"), in_words("balanced_accuracy"), in_words("map_gaussian_noise")
        ('mask mAP', 'mIoU', 'balanced accuracy', 'mAP gaussian noise')
        >>> in_words("uncapped_map_50")
        'mAP50 of all detections'
    """
    if name.startswith("uncapped_"):
        return f"{in_words(name.removeprefix('uncapped_'))} of all detections"
    if name.startswith("mask_"):
        return f"mask {in_words(name.removeprefix('mask_'))}"
    if name in _WORDS:
        return _WORDS[name]
    first, _, rest = name.partition("_")
    return " ".join(filter(None, (_WORDS.get(first, first), rest.replace("_", " "))))


def size_change(ratio: float) -> tuple[float, str]:
    """How a file's size compares, from the size before by that after: how many times, and the word for it.

    Example:
        >>> size_change(4.0), size_change(0.8), size_change(1.0)
        ((4.0, 'smaller'), (1.25, 'larger'), (1.0, 'of the same size'))
    """
    if abs(ratio - 1) < 0.005:
        return 1.0, "of the same size"
    return (ratio, "smaller") if ratio > 1 else (1 / ratio, "larger")
