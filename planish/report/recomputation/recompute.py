"""Recompute metrics, drops and timings from a run's stored predictions and timings, and report differences from its result."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planish.evaluation.statistics.intervals import bootstrap_mean, paired_difference, proportion
from planish.measurement import Measurement, Metric
from planish.report.recomputation.classifier import classifier
from planish.report.recomputation.recheck import NumberSource, Path, disagreements, expected, unchecked
from planish.report.recomputation.run_folder import Predictions, RunFolder, Scores, class_names
from planish.search.result import ClassResult
from planish.task import metric_of


@dataclass(frozen=True)
class ClassChange:
    """The metric of one class before and after, and the drop: paired, or without an interval if it cannot be recomputed."""

    name: str
    before: Measurement
    after: Measurement
    drop: Measurement


@dataclass(frozen=True)
class Timing:
    """Latency statistics of single calls, pooled over launches, in ms."""

    median: float
    p95: float
    slowest: float
    n: int


@dataclass(frozen=True)
class Recomputed:
    """Numbers recomputed from a run's stored files.

    Args:
        before: the metric of the baseline on test.
        after: the metric of the chosen candidate on test.
        drop: paired difference of both.
        per_class: in the order of the classes.
        timings: by candidate key.
        confusion: confusion matrices before and after ``(classes, classes)``, rows are targets; None without logits.
        differing: number of test images on which the two differ and the chosen one is right, the baseline is right, or neither is.
        warnings: differences from the result.
        unchecked: number of shown numbers that can no longer be derived from the folder, such as the sizes of deleted files.
    """

    before: Measurement
    after: Measurement
    drop: Measurement
    per_class: list[ClassChange]
    timings: dict[str, Timing]
    confusion: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None
    differing: tuple[int, int, int]
    warnings: list[str]
    unchecked: int = 0


def recompute(run: RunFolder) -> Recomputed:
    """Recompute a run's metric before and after, its drop, per-class metrics and timings, and compare the result with them."""
    timings = {key: Timing(float(np.median(x)), float(np.percentile(x, 95)), float(x.max()), len(x)) for key, x in run.samples.items()}
    found = _of_scores(run, run.predictions, timings) if isinstance(run.predictions, Scores) else _of_logits(run, run.predictions, timings)
    sources = sources_of(run, found)
    return replace(found, warnings=disagreements(run.result, sources), unchecked=len(unchecked(run.result, sources)))


def sources_of(run: RunFolder, found: Recomputed) -> dict[Path, NumberSource]:
    """Return the expected value of each number of the result; see ``recheck.expected``."""
    per_class = None if isinstance(run.predictions, Scores) else [(each.before, each.after) for each in found.per_class]
    return expected(run, {"before": found.before, "after": found.after, "drop": found.drop}, per_class)


def _of_logits(run: RunFolder, stored: Predictions, timings: dict[str, Timing]) -> Recomputed:
    names = class_names(run.result)
    before, after = stored.baseline.argmax(axis=1), stored.chosen.argmax(axis=1)
    right_before, right_after = before == stored.targets, after == stored.targets
    per_class = []
    for named in run.result.per_class:
        rows = stored.targets == names.index(named.name)
        before_of, after_of = (_accuracy(right[rows], named.baseline.name) for right in (right_before, right_after))
        per_class.append(ClassChange(named.name, before_of, after_of, _drop(right_before[rows], right_after[rows])))
    differ = before != after
    task = classifier(run.result.metric, names)
    metric, baseline, chosen = metric_of(task), {"logits": stored.baseline}, {"logits": stored.chosen}
    before_scores, after_scores = (task.scores(outputs, stored.targets) for outputs in (baseline, chosen))
    return Recomputed(
        before=task.metrics(baseline, stored.targets)[metric.name],
        after=task.metrics(chosen, stored.targets)[metric.name],
        drop=_drop(before_scores, after_scores, metric, task.effective_images(stored.targets)),
        per_class=per_class,
        timings=timings,
        confusion=(_confusion(stored.targets, before, len(names)), _confusion(stored.targets, after, len(names))),
        differing=(int(right_after[differ].sum()), int(right_before[differ].sum()), int((differ & ~right_before & ~right_after).sum())),
        warnings=[],
    )


def _of_scores(run: RunFolder, stored: Scores, timings: dict[str, Timing]) -> Recomputed:
    """Recompute from scores; per-class metrics cannot be recomputed and are copied from the result."""
    metric = run.result.primary_metric
    return Recomputed(
        before=mean_score(metric, stored.baseline),
        after=mean_score(metric, stored.chosen),
        drop=_drop(stored.baseline, stored.chosen, metric),
        per_class=[ClassChange(named.name, named.baseline, named.chosen, _plain_drop(named)) for named in run.result.per_class],
        timings=timings,
        confusion=None,
        differing=(0, 0, 0),
        warnings=[],
    )


def mean_score(metric: Metric, scores: npt.NDArray[np.float64]) -> Measurement:
    """Return the mean of one score per image ``(N,)``, with a bootstrap confidence interval, clipped to 0 and 100 if in percent."""
    found = metric.measured(bootstrap_mean(scores), len(scores))
    if metric.unit != "%" or found.low is None or found.high is None:
        return found
    return replace(found, low=min(found.value, max(0.0, found.low)), high=max(found.value, min(100.0, found.high)))


def _accuracy(right: npt.NDArray[np.bool_], name: str) -> Measurement:
    n = len(right)
    low, high = proportion(int(right.sum()), n)
    return Measurement(name, 100 * float(right.mean()) if n else 0.0, "%", n, True, 100 * low, 100 * high)


_ACCURACY = Metric("accuracy")


def _drop(
    before: npt.NDArray[np.generic], after: npt.NDArray[np.generic], metric: Metric = _ACCURACY, images: float | None = None
) -> Measurement:
    if not len(before):
        return Measurement("drop", 0.0, "points", 0, False, -100.0, 100.0)
    return metric.drop(paired_difference(before, after, images=images), len(before), "drop")


def _plain_drop(named: ClassResult) -> Measurement:
    metric, less = Metric.of(named.baseline), named.baseline.value - named.chosen.value
    return Measurement("drop", less if metric.higher_is_better else -less, metric.change_unit, named.baseline.n, False)


def _confusion(targets: npt.NDArray[np.int64], preds: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(targets * classes + preds, minlength=classes * classes).reshape(classes, classes)
