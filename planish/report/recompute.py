"""Every number of the report once more, from stored predictions and timings; where it disagrees with the result, a warning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planish.evaluation.statistics import bootstrap_mean, over_launches, paired_difference, paired_ratio, proportion
from planish.measurement import Measurement
from planish.report.run_folder import Predictions, RunFolder, Scores, class_names
from planish.report.words import change, change_interval, metric, milliseconds, number, times, title
from planish.search.result import ClassResult

_LATENCY_TOLERANCE = 1e-3  # stored times are rounded
_SCORE_TOLERANCE = 0.005  # points; a mean of scores is the metric itself


@dataclass(frozen=True)
class ClassChange:
    """The number of one class in % before and after, and the drop in points: paired, or without an interval where nothing tells it."""

    name: str
    before: Measurement
    after: Measurement
    drop: Measurement


@dataclass(frozen=True)
class Timing:
    """Pooled single calls, in ms."""

    median: float
    p95: float
    slowest: float
    n: int


@dataclass(frozen=True)
class Recomputed:
    """What the stored files say.

    Args:
        before: the metric of the baseline on test.
        after: that of the chosen candidate.
        drop: paired, in points.
        per_class: in the order of the classes.
        timings: by candidate key.
        confusion: how often target (row) was taken for class (column), ``(classes, classes)``, before and after; None without logits.
        differing: numbers of test images on which the two differ: the chosen one is right, the baseline is right, neither is.
        warnings: where the result says something else.
    """

    before: Measurement
    after: Measurement
    drop: Measurement
    per_class: list[ClassChange]
    timings: dict[str, Timing]
    confusion: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None
    differing: tuple[int, int, int]
    warnings: list[str]


def recompute(run: RunFolder) -> Recomputed:
    """Recompute a run's metric before and after, the paired difference, and latencies."""
    timings = {key: Timing(float(np.median(x)), float(np.percentile(x, 95)), float(x.max()), len(x)) for key, x in run.samples.items()}
    found = _of_scores(run, run.predictions, timings) if isinstance(run.predictions, Scores) else _of_logits(run, run.predictions, timings)
    found.warnings.extend([*_metric_warnings(run, found), *_latency_warnings(run), *_size_warnings(run)])
    return found


def _of_logits(run: RunFolder, stored: Predictions, timings: dict[str, Timing]) -> Recomputed:
    names = class_names(run.result)
    before, after = stored.baseline.argmax(axis=1), stored.chosen.argmax(axis=1)
    right_before, right_after = before == stored.targets, after == stored.targets
    per_class = []
    for named in run.result.per_class:
        rows = stored.targets == names.index(named.name)
        per_class.append(
            ClassChange(
                named.name, _accuracy(right_before[rows]), _accuracy(right_after[rows]), _drop(right_before[rows], right_after[rows])
            )
        )
    differ = before != after
    return Recomputed(
        before=_accuracy(right_before),
        after=_accuracy(right_after),
        drop=_drop(right_before, right_after),
        per_class=per_class,
        timings=timings,
        confusion=(_confusion(stored.targets, before, len(names)), _confusion(stored.targets, after, len(names))),
        differing=(int(right_after[differ].sum()), int(right_before[differ].sum()), int((differ & ~right_before & ~right_after).sum())),
        warnings=[],
    )


def _of_scores(run: RunFolder, stored: Scores, timings: dict[str, Timing]) -> Recomputed:
    """What is not stored, the classes' numbers, is taken as it was measured."""
    name = run.result.metric
    return Recomputed(
        before=mean_score(name, stored.baseline),
        after=mean_score(name, stored.chosen),
        drop=_drop(stored.baseline, stored.chosen),
        per_class=[ClassChange(named.name, named.baseline, named.chosen, _plain_drop(named)) for named in run.result.per_class],
        timings=timings,
        confusion=None,
        differing=(0, 0, 0),
        warnings=[],
    )


def mean_score(name: str, scores: npt.NDArray[np.float64]) -> Measurement:
    """The metric of that name in percent, from one score an image ``(N,)``; a bootstrapped interval that ends at 0 and 100."""
    value, low, high = (100 * x for x in bootstrap_mean(scores))
    return Measurement(name, value, "%", len(scores), True, min(value, max(0.0, low)), max(value, min(100.0, high)))


def _accuracy(right: npt.NDArray[np.bool_]) -> Measurement:
    n = len(right)
    low, high = proportion(int(right.sum()), n)
    return Measurement("accuracy", 100 * float(right.mean()) if n else 0.0, "%", n, True, 100 * low, 100 * high)


def _drop(before: npt.NDArray[np.generic], after: npt.NDArray[np.generic]) -> Measurement:
    if not len(before):
        return Measurement("drop", 0.0, "points", 0, False, -100.0, 100.0)
    value, low, high = paired_difference(before, after)
    return Measurement("drop", 100 * value, "points", len(before), False, 100 * low, 100 * high)


def _plain_drop(named: ClassResult) -> Measurement:
    return Measurement("drop", named.baseline.value - named.chosen.value, "points", named.baseline.n, False)


def _confusion(targets: npt.NDArray[np.int64], preds: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(targets * classes + preds, minlength=classes * classes).reshape(classes, classes)


def _metric_warnings(run: RunFolder, found: Recomputed) -> list[str]:
    result, warnings = run.result, []
    name, called = result.metric, title(result.metric)
    nothing = _SCORE_TOLERANCE if isinstance(run.predictions, Scores) else 50 / found.before.n  # half an image

    def compare(what: str, said: Measurement | None, seen: Measurement, tolerance: float) -> None:
        if said is None:
            warnings.append(f"{what}: the result does not say; the stored predictions give {number(seen.value, 2)} {seen.unit}.")
        elif abs(said.value - seen.value) > tolerance:
            told, counted = (f"{number(m.value, 2)} {m.unit}" for m in (said, seen))
            warnings.append(f"{what}: the result says {told}, the stored predictions give {counted}.")

    compare(f"{called} of the original on test", result.baseline.measurements.get(name), found.before, nothing)
    compare(f"{called} of the chosen model on test", result.chosen.measurements.get(name), found.after, nothing)
    compare(f"Drop of {metric(name)} on test", result.drop, found.drop, nothing)
    said = result.drop
    ends = [(said.low, found.drop.low), (said.high, found.drop.high)]
    # Another interval for the same data moves an end by a fraction of a point, never by half its width.
    width = max((found.drop.high or 0) - (found.drop.low or 0), nothing)
    if any(a is None or b is None or abs(a - b) > width / 2 for a, b in ends):
        warnings.append(
            f"Interval of the {metric(name)} change: the result says {change_interval(said) or 'nothing'}, the stored predictions give "
            f"{change(found.drop)}, {change_interval(found.drop)} points."
        )
    for named, seen in zip(result.per_class, found.per_class, strict=True):
        if seen.before.n:
            compare(f"{called} on {named.name}, original", named.baseline, seen.before, 50 / seen.before.n)
            compare(f"{called} on {named.name}, chosen model", named.chosen, seen.after, 50 / seen.after.n)
    return warnings


def _latency_warnings(run: RunFolder) -> list[str]:
    result, warnings = run.result, []
    for candidate in (*result.baselines.values(), result.chosen):
        said, seen = candidate.measurements["latency_ms"], over_launches(run.rounds[candidate.key]).value
        if not _near(said, seen):
            told, timed = milliseconds(said.value), milliseconds(seen)
            warnings.append(f"Latency of {candidate.key}: the result says {told} ms, the stored timings give {timed} ms.")
    for runtime, ratio in result.latency_ratios.items():
        if runtime in result.baselines:
            seen = paired_ratio(run.rounds[result.baselines[runtime].key], run.rounds[result.chosen.key]).value
            if not _near(ratio, seen):
                warnings.append(
                    f"Latency ratio against {runtime} fp32: the result says {times(ratio.value)}, the stored timings give {times(seen)}."
                )
    smallest = min((r.value for r in result.latency_ratios.values()), default=result.latency_ratio.value)
    if result.latency_ratio.value > smallest * 1.001:
        warnings.append(
            f"The headline speed-up is {times(result.latency_ratio.value)}, but the smallest of the ratios to fp32 is {times(smallest)}."
        )
    return warnings


def _size_warnings(run: RunFolder) -> list[str]:
    said = run.result.size_ratio.value
    before, after = (c.measurements.get("size_bytes") for c in (run.result.baseline, run.result.chosen))
    # Formats differ a little in size and the ratio may be to another runtime's file of the original, so only what is plainly off is.
    if before is None or after is None or not after.value or abs(said - before.value / after.value) <= 0.1 * said:
        return []
    return [f"Size ratio: the result says {times(said)}, the sizes of both files give {times(before.value / after.value)}."]


def _near(said: Measurement, seen: float) -> bool:
    return abs(seen - said.value) <= _LATENCY_TOLERANCE * abs(said.value)
