"""Format numbers for reading: units, signs, confidence intervals, and when to report "no difference"."""

from __future__ import annotations

from collections.abc import Mapping

from planish.measurement import Measurement, digits_of, in_words, size_change
from planish.search.result import CandidateResult, Result

MINUS = "−"
TOO_WIDE_POINTS = 5.0  # a metric's confidence interval that is wider than this is reported as inconclusive
_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-default": "OpenVINO, default precision",
    "litert": "LiteRT",
    "tensorrt": "TensorRT",
    "torch": "PyTorch",
}


def runtime_name(runtime: str) -> str:
    return _RUNTIMES.get(runtime, runtime)


def metric(name: str) -> str:
    """Return a metric's name for use within a sentence: ``accuracy``, ``mAP``, ``mask mAP``, ``mIoU``."""
    return in_words(name)


def title(name: str) -> str:
    """Return a metric's name for the beginning of a sentence: ``Accuracy``, ``mAP``, ``Mask mAP``."""
    text = in_words(name)
    return text[:1].upper() + text[1:] if text.split(" ")[0].islower() else text


def primary(measurements: Mapping[str, Measurement]) -> Measurement | None:
    """Return the primary metric, which is always stored first."""
    return next(iter(measurements.values()), None)


def counted(measurement: Measurement) -> str:
    """Return what ``n`` of a class's measurement counts: ``Objects`` or ``Images``."""
    return "Objects" if measurement.name == "average_precision" else "Images"


def number(value: float, digits: int, sign: bool = False) -> str:
    """Format as ``1,234.50``, with a true minus sign; ``sign`` adds + to positive numbers. Numbers that round to 0 have no sign."""
    text = f"{abs(value):,.{digits}f}"
    if not text.strip("0.,"):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def milliseconds(value: float) -> str:
    """Format to three significant digits, at most three decimals."""
    return number(value, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0)


def size(value: float) -> str:
    """Format a number of bytes in decimal units, like ``--max-size 4MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{number(value / scale, 2 if value < 10 * scale else 1 if value < 100 * scale else 0)} {unit}"
    return f"{value:.0f} bytes"


def times(value: float) -> str:
    return number(value, 2 if value < 10 else 1) + "×"


def size_ratio(ratio: float) -> tuple[str, str]:
    """Format size before / size after: ``9.20×`` and ``smaller``, ``1.25×`` and ``larger``, or an empty string and ``of the same size``."""
    factor, word = size_change(ratio)
    return ("" if factor == 1 else times(factor)), word


def seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def show(measurement: Measurement) -> str:
    """Format a value with its unit."""
    m = measurement
    if m.unit == "ms":
        return f"{milliseconds(m.value)} ms"
    if m.unit == "bytes":
        return size(m.value)
    if m.unit == "ratio":
        return times(m.value)
    if m.unit == "s":
        return seconds(m.value)
    if m.name == "macs":
        return f"{number(m.value / 1e6, 1)} M"
    return f"{number(m.value, digits_of(m.unit, m.value))} {m.unit}".strip()


def interval(measurement: Measurement) -> str:
    """Format a confidence interval as ``3.90× to 4.40×``; empty if there is none."""
    m = measurement
    if m.low is None or m.high is None:
        return ""
    low, high = (show(Measurement(m.name, end, m.unit, m.n, m.higher_is_better)) for end in (m.low, m.high))
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def includes(measurement: Measurement, value: float) -> bool:
    """Whether the confidence interval contains ``value``, so that there is no significant difference from it."""
    m = measurement
    return m.low is not None and m.high is not None and m.low <= value <= m.high


def width(measurement: Measurement) -> float:
    """Return the width of the confidence interval; 0 if there is none."""
    m = measurement
    return 0.0 if m.low is None or m.high is None else m.high - m.low


def too_wide(measurement: Measurement) -> bool:
    """Whether a confidence interval in percent or points is too wide for a conclusion, because there are too few images."""
    return width(measurement) > TOO_WIDE_POINTS


def change(drop: Measurement) -> str:
    """Format a drop as a signed change: a drop of 0.4 points is ``−0.40``. In other units, where lower may be better, the direction is a
    word: ``0.400 worse``.
    """
    return _changed(drop, drop.value)


def change_in_unit(drop: Measurement) -> str:
    """Format a drop as a change with its unit: ``−0.40 points``, ``0.400 mm worse``."""
    return f"{change(drop)} points" if drop.unit == "points" else _changed(drop, drop.value, drop.unit)


def change_interval(drop: Measurement) -> str:
    if drop.low is None or drop.high is None:
        return ""
    ends = (drop.high, drop.low) if drop.unit == "points" else (drop.low, drop.high)
    return " to ".join(_changed(drop, end) for end in ends)


def _changed(drop: Measurement, lost: float, unit: str = "") -> str:
    if drop.unit == "points":
        return number(-lost, 2, sign=True)
    return " ".join(filter(None, (number(abs(lost), digits_of(drop.unit, drop.value)), unit, "worse" if lost > 0 else "better")))


def change_heading(unit: str, word: str = "Change") -> str:
    """Return the heading of a column of changes: ``Change, points``."""
    return f"{word}, {unit}" if unit else word


def change_word(drop: Measurement) -> str:
    if includes(drop, 0):
        return "no difference"
    return "lost" if drop.value > 0 else "gained" if drop.value < 0 else "no difference"


def everyone(result: Result) -> list[CandidateResult]:
    """Return all candidates without repetition: baselines, the chosen one, then the others by the stage they reached and by latency."""
    rank = {"measured": 0, "trained": 1, "screened": 2, "baseline": 3}
    others = sorted((*result.pareto_frontier, *result.candidates), key=lambda c: (rank[c.stage], latency_of(c)))
    found: dict[str, CandidateResult] = {}
    for candidate in (*result.baselines.values(), result.baseline, result.chosen, *others):
        found.setdefault(candidate.key, candidate)
    return list(found.values())


def latency_of(candidate: CandidateResult) -> float:
    latency = candidate.measurements.get("latency_ms")
    return latency.value if latency else float("inf")
