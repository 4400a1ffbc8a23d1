"""A measured number with its unit, interval, sample count, device and runtime."""

from __future__ import annotations

import math
import re

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.printable import html_table


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Measurement:
    """One measured number. Packages exchange measurements instead of bare numbers.

    Args:
        name: what was measured: ``accuracy``, ``latency_ms``, ``size_bytes``.
        value: the number, in ``unit``.
        unit: ``%``, ``ms``, ``bytes``, ``ratio``, ``points``, ``s``, ``nats``, or the unit of a task's metric; empty if it has none.
        n: number of samples (images, rounds, files).
        higher_is_better: whether a larger value is better.
        low: lower end of the 95% confidence interval; None if the number is exact (a file size).
        high: upper end of the 95% confidence interval.
        device: what it was measured on; empty if it does not matter.
        runtime: the runtime that ran the model; empty if none did.
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
        digits = digits_of(self.unit, self.value)
        text = f"{self.value:,.{digits}f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"
        return f"{text} {self.unit}".rstrip()


class Measurements(dict[str, Measurement]):
    """Measurements by name, which show themselves as a table in a notebook."""

    def _repr_html_(self) -> str:
        return html_table(("", "value, 95% interval", "n"), [(in_words(name), m, f"{m.n:,}") for name, m in self.items()])


_DIGITS = {"bytes": 0, "count": 0, "ms": 3} | dict.fromkeys(("%", "points", "ratio", "s", "nats", ""), 2)


def digits_of(unit: str, value: float) -> int:
    """Return the number of decimals to display: fixed for common units, enough for three significant digits for a task's own unit.

    Example:
        >>> digits_of("%", 93.2), digits_of("mm", 12.34), digits_of("mm", 0.0123)
        (2, 1, 4)
    """
    if unit in _DIGITS:
        return _DIGITS[unit]
    return min(6, max(0, 2 - math.floor(math.log10(abs(value))))) if value and math.isfinite(value) else 2


@dataclass(frozen=True)
class Metric:
    """A metric that models are compared by. It converts scores, one per image, to a number in its unit.

    Args:
        name: ``accuracy``, ``map``, ``mean_absolute_error``.
        unit: ``%`` if scores range from 0 to 1; otherwise the unit of the scores: ``mm``, ``years``, empty if they have none.
        higher_is_better: False for errors, whose best value is 0.

    Example:
        >>> error = Metric("mean_absolute_error", "mm", higher_is_better=False)
        >>> str(error.drop((-0.5, -0.7, -0.3), n=40))
        '0.500 [0.300, 0.700] mm'
    """

    name: str
    unit: str = "%"
    higher_is_better: bool = True

    @classmethod
    def named(cls, of: str | Metric) -> Metric:
        """Return a ``Metric`` unchanged; a name becomes a metric in percent for which higher is better."""
        return of if isinstance(of, Metric) else cls(of)

    @classmethod
    def of(cls, measurement: Measurement) -> Metric:
        """Return the metric of a measurement."""
        return cls(measurement.name, measurement.unit, measurement.higher_is_better)

    @property
    def scale(self) -> float:
        """Factor from scores to the metric's unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def best(self) -> float:
        """The score of a model without errors."""
        return 1.0 if self.higher_is_better else 0.0

    @property
    def change_unit(self) -> str:
        """Unit of a difference of the metric."""
        return "points" if self.unit == "%" else self.unit

    def text(self, score: float) -> str:
        """Format a mean score in the metric's unit: ``93.2 %``, ``12.3 mm``."""
        value = self.scale * score
        return f"{value:,.{1 if self.unit == '%' else digits_of(self.unit, value)}f} {self.unit}".rstrip()

    def worse(self, amount: float) -> str:
        """Describe a drop of ``amount``: ``loses 0.50 points of accuracy``, ``has 0.50 mm more mean absolute error``."""
        name, size = in_words(self.name), f"{abs(amount):,.{digits_of(self.change_unit, amount)}f} {self.change_unit}".rstrip()
        if self.higher_is_better:
            return f"{'loses' if amount >= 0 else 'gains'} {size} of {name}"
        return f"has {size} {'more' if amount >= 0 else 'less'} {name}"

    def measured(self, interval: tuple[float, float, float], n: int, name: str = "") -> Measurement:
        """Convert a mean score to a measurement.

        Args:
            interval: the mean of the scores and the ends of its interval.
            n: number of images.
            name: name of the measurement; empty for the metric's own.
        """
        value, low, high = (self.scale * x for x in interval)
        return Measurement(name or self.name, value, self.unit, n, self.higher_is_better, low, high)

    def drop(self, difference: tuple[float, float, float], n: int, name: str = "") -> Measurement:
        """Convert a difference of mean scores to a drop; positive if the model is worse than the reference.

        Args:
            difference: mean score of the reference minus that of the model, and the ends of its interval.
            n: number of images.
            name: name of the measurement; empty for ``NAME_drop``.
        """
        value, low, high = (float(f"{self.scale * x:.12g}") for x in difference)  # 100 * 0.07 must not exceed a limit of 7
        if not self.higher_is_better:
            value, low, high = -value, -high, -low
        return Measurement(name or f"{self.name}_drop", value, self.change_unit, n, False, low, high)


_WORDS = {
    "map": "mAP", "map_small": "mAP of small objects", "map_medium": "mAP of medium objects",
    "map_large": "mAP of large objects", "mar_100": "mean recall", "mar": "mean recall",
    "miou": "mIoU", "iou": "IoU", "dice": "Dice", "f1": "F1", "f1_macro": "macro F1", "auroc_macro": "AUROC",
    "kl_divergence": "KL divergence",
}  # fmt: skip
_MAP_AT = re.compile(r"map_(\d\d)")


def in_words(name: str) -> str:
    """Return a metric's display name: ``mAP``, ``mask mAP50``, ``accuracy``.

    Example:
        >>> in_words("mask_map"), in_words("miou"), in_words("balanced_accuracy"), in_words("map_gaussian_noise")
        ('mask mAP', 'mIoU', 'balanced accuracy', 'mAP gaussian noise')
        >>> in_words("uncapped_map_50")
        'mAP50 of all detections'
        >>> in_words("recall:hat"), in_words("iou:road"), in_words("map_60")
        ('recall of hat', 'IoU of road', 'mAP60')
    """
    kind, colon, label = name.partition(":")
    if colon:
        return f"{in_words(kind)} of {label}"
    if name.startswith("uncapped_"):
        return f"{in_words(name.removeprefix('uncapped_'))} of all detections"
    if name.startswith("mask_"):
        return f"mask {in_words(name.removeprefix('mask_'))}"
    if name in _WORDS:
        return _WORDS[name]
    if at := _MAP_AT.fullmatch(name):
        return f"mAP{at[1]}"
    first, _, rest = name.partition("_")
    return " ".join(filter(None, (_WORDS.get(first, first), rest.replace("_", " "))))


def size_change(ratio: float) -> tuple[float, str]:
    """Describe a size ratio (size before / size after): the factor, and the word for the direction.

    Example:
        >>> size_change(4.0), size_change(0.8), size_change(1.0)
        ((4.0, 'smaller'), (1.25, 'larger'), (1.0, 'of the same size'))
    """
    if abs(ratio - 1) < 0.005:
        return 1.0, "of the same size"
    return (ratio, "smaller") if ratio > 1 else (1 / ratio, "larger")
