"""The result of a run: ``result.json``. The report is made from this file and those in the same folder, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.files.atomic import read_result, write_result
from planish.goal import Goal
from planish.measurement import Measurement, Metric
from planish.printable import html_table
from planish.runs.record import RunRecord

_STRICT = ConfigDict(extra="forbid")
Stage = Literal["baseline", "screened", "trained", "measured"]


@dataclass(frozen=True, config=_STRICT)
class CandidateResult:
    """A plan, the runtime that runs its file, and its measurements.

    Args:
        key: the plan's hash and the runtime: ``1f3a9c0b2d4e@openvino``.
        plan: the techniques in the form of ``Plan.to_dicts``; empty for the original model.
        summary: short description: ``channels -50 %, distilled 6 epochs, INT8``.
        runtime: ``onnxruntime``, ``openvino``, ...
        stage: the last stage it reached: ``baseline``, ``screened``, ``trained``, ``measured``.
        measurements: by name. ``metric_validation``, ``drop_validation`` (paired, see ``Result.drop``), ``drop_risk`` (probability in
            percent that the drop on new images is above the limit; not of originals), ``latency_ms``, ``latency_p95_ms``, ``latency_ratio``
            (baseline / this; above 1 is faster), ``size_bytes``, ``macs``, ``peak_memory_bytes``; for baseline and chosen also the test
            metrics, ``accuracy`` or ``map`` and so on; without labels ``agreement``, and for chosen ``kl_divergence``.
        meets_goal: whether it meets every limit, with the drop on validation.
        reason: why it was stopped, refused or not chosen; empty for the chosen one.
    """

    key: str
    plan: list[dict[str, Any]]
    summary: str
    runtime: str
    stage: Stage
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    meets_goal: bool = False
    reason: str = ""


@dataclass(frozen=True, config=_STRICT)
class ClassResult:
    """The metric of one class on test: accuracy, average precision or intersection over union.

    Args:
        name: name of the class.
        baseline: metric of the original model.
        chosen: metric of the chosen model.
    """

    name: str
    baseline: Measurement
    chosen: Measurement


@dataclass(frozen=True, config=_STRICT)
class ErrorResult:
    """The cost of one kind of error on test, see ``Task.errors``.

    Args:
        kind: kind of error.
        baseline: cost for the original model, in points.
        chosen: cost for the chosen model, in points.
        change: the difference, paired by image, in points; positive if the chosen model loses more.
    """

    kind: str
    baseline: Measurement
    chosen: Measurement
    change: Measurement


@dataclass(frozen=True, config=_STRICT)
class StageSeconds:
    """The time of one stage of a run.

    Args:
        stage: name of the stage.
        seconds: seconds it took.
        expected_seconds: estimate made before the stage began; 0 if there was none.
    """

    stage: str
    seconds: float
    expected_seconds: float


@dataclass(frozen=True, config=_STRICT)
class BudgetUse:
    """Wall-clock time of a run, in seconds.

    Args:
        allowed_seconds: the budget.
        taken_seconds: time from the start to the last measurement, plus the expected time for writing the files.
        least_seconds: minimum time of the run, as estimated after images and model were read.
        overruns: stages that took longer than planned, the largest overrun first; empty if the budget was kept within 10 % or 20 s.
    """

    allowed_seconds: float
    taken_seconds: float
    least_seconds: float
    overruns: list[StageSeconds] = Field(default_factory=list)

    def __str__(self) -> str:
        """Describe the overrun in a sentence; empty if the budget was kept."""
        if not self.overruns:
            return ""
        stages = ", ".join(
            f"{s.stage} {s.seconds:.0f} s" + f" ({s.expected_seconds:.0f} s expected)" * (s.expected_seconds > 0) for s in self.overruns
        )
        least = f" At least {self.least_seconds:.0f} s were needed from the start." if self.least_seconds > self.allowed_seconds else ""
        return f"The run took {self.taken_seconds:.0f} s of a budget of {self.allowed_seconds:.0f} s.{least} What made it longer: {stages}."


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Result(RunRecord):
    """The result of a whole run.

    Args:
        verdict: one sentence, with numbers and intervals.
        goal: the limits.
        goal_met: whether the chosen candidate meets every limit on validation, and its drop on test does too; for latency the upper
            end of the interval counts.
        choice: describes why the chosen candidate was chosen, and a faster one that was not because there are too few validation images.
        shortfall: describes by how much the nearest candidate exceeds the limits; empty if the goal is met.
        baseline: the original model in the runtime in which it is fastest on this machine.
        baselines: the original in fp32 in every runtime, and in OpenVINO's default precision if that is not fp32 (with its own accuracy).
        chosen: the deployed candidate; its latency and the baselines' are from a session after the choice, all others from the one before.
        pareto_frontier: candidates that no other candidate beats on the metric, latency and size together.
        candidates: all candidates, including those stopped early.
        latency_ratio: original / chosen, for the entry of ``baselines`` with the *smallest* ratio: the headline speed-up.
        latency_ratios: the same for each of ``baselines``, by runtime.
        size_ratio: size of the original file / size of the chosen file.
        drop: drop of the chosen model on test, paired by image; in points if the metric is in percent, else in its unit.
        per_class: metric of each class on test.
        noise_floor: deviation from 1 of the latency ratio of two copies of the same file, in %.
        data: name, images per split, how they were split, leaks and duplicates found.
        budget: how much of the budget was used, and which stages took longer than planned.
        metric: name of the task's primary metric, to which ``drop`` and all other differences refer.
        class_names: all classes, in the order of the model's outputs; empty if they are those of ``per_class``.
        errors: cost of each kind of error on test.
    """

    model: str
    verdict: str
    goal: Goal
    goal_met: bool
    baseline: CandidateResult
    baselines: dict[str, CandidateResult]
    chosen: CandidateResult
    pareto_frontier: list[CandidateResult]
    candidates: list[CandidateResult]
    latency_ratio: Measurement
    latency_ratios: dict[str, Measurement]
    size_ratio: Measurement
    drop: Measurement
    per_class: list[ClassResult]
    noise_floor: Measurement
    data: dict[str, Any]
    budget: BudgetUse
    shortfall: str = ""
    choice: str = ""
    metric: str = "accuracy"
    class_names: tuple[str, ...] = ()
    errors: list[ErrorResult] = Field(default_factory=list)

    def _repr_html_(self) -> str:
        """Show verdict, originals and Pareto frontier in a notebook."""
        shown = {c.key: c for c in (*self.baselines.values(), self.chosen, *self.pareto_frontier)}
        names = ("drop_validation", "latency_ms", "latency_ratio", "size_bytes")
        rows = [
            (c.summary, c.runtime, *map(c.measurements.get, names), "chosen" if c.key == self.chosen.key else c.reason)
            for c in shown.values()
        ]
        return html_table(("", "runtime", "drop on validation", "latency", "speed-up", "size", ""), rows, self.verdict)

    @property
    def primary_metric(self) -> Metric:
        """The primary metric with its unit and direction, as measured on test."""
        measured = self.baseline.measurements.get(self.metric)
        return Metric(self.metric) if measured is None else Metric.of(measured)

    def save(self, path: Path) -> None:
        """Write JSON atomically: to a temporary file, which is then renamed."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a file written by ``save``; raises ``BundleError`` if it is not valid."""
        return read_result(path, Result)
