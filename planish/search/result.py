"""What a run found: ``result.json``. The report draws from this and from the files beside it, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.files.atomic import read_result, write_result
from planish.goal import Goal
from planish.measurement import Measurement, Metric
from planish.runs.record import RunRecord

_STRICT = ConfigDict(extra="forbid")
Stage = Literal["baseline", "screened", "trained", "measured"]


@dataclass(frozen=True, config=_STRICT)
class CandidateResult:
    """A plan, the runtime that runs its file, and what was measured.

    Args:
        key: the plan's hash and the runtime: ``1f3a9c0b2d4e@openvino``.
        plan: the techniques, as ``Plan.to_dicts`` gives them; empty for the original model.
        summary: what was done, in words: ``channels -50 %, distilled 6 epochs, INT8``.
        runtime: ``onnxruntime``, ``openvino``, ...
        stage: how far it came: ``baseline``, ``screened`` (screening), ``trained``, ``measured``.
        measurements: by name. ``metric_validation``, ``drop_validation`` (paired, see ``Result.drop``), ``latency_ms``,
            ``latency_p95_ms``, ``latency_ratio`` (baseline / this; above 1 is faster), ``size_bytes``, ``macs``,
            ``peak_memory_bytes``; for baseline and chosen also the test metrics, ``accuracy`` or ``map`` and so on.
        meets_goal: on validation, latency and size.
        reason: it was stopped, refused or not chosen; empty for the chosen one.
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
    """One class on test: its accuracy, average precision or intersection over union.

    Args:
        name: of the class.
        baseline: of the original model.
        chosen: of the chosen one.
    """

    name: str
    baseline: Measurement
    chosen: Measurement


@dataclass(frozen=True, config=_STRICT)
class ErrorResult:
    """Errors of one kind on test, see ``Task.errors``.

    Args:
        kind: of error.
        baseline: what they cost the original model, in points.
        chosen: what they cost the chosen one, in points.
        change: the difference, paired by image, in points; positive where the chosen one loses more.
    """

    kind: str
    baseline: Measurement
    chosen: Measurement
    change: Measurement


@dataclass(frozen=True, config=_STRICT)
class StageSeconds:
    """The time of one stage of a run.

    Args:
        stage: its name.
        seconds: that it took.
        expected_seconds: when it began; 0 where there was no estimate.
    """

    stage: str
    seconds: float
    expected_seconds: float


@dataclass(frozen=True, config=_STRICT)
class BudgetUse:
    """Wall-clock time of a run, in seconds.

    Args:
        allowed_seconds: the budget.
        taken_seconds: from the start to the last measurement, and what writing the files is expected to take.
        least_seconds: that the run was estimated to take at least, when images and model were read.
        overruns: stages that took longer than planned, the longest first; empty where the budget was kept within 10 % or 20 s.
    """

    allowed_seconds: float
    taken_seconds: float
    least_seconds: float
    overruns: list[StageSeconds] = Field(default_factory=list)

    def __str__(self) -> str:
        """A sentence, empty where the budget was kept."""
        if not self.overruns:
            return ""
        stages = ", ".join(
            f"{s.stage} {s.seconds:.0f} s" + f" ({s.expected_seconds:.0f} s expected)" * (s.expected_seconds > 0) for s in self.overruns
        )
        least = f" At least {self.least_seconds:.0f} s were needed from the start." if self.least_seconds > self.allowed_seconds else ""
        return f"The run took {self.taken_seconds:.0f} s of a budget of {self.allowed_seconds:.0f} s.{least} What made it longer: {stages}."


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Result(RunRecord):
    """A whole run.

    Args:
        verdict: one sentence, with numbers and intervals.
        goal: the limits.
        goal_met: whether the chosen candidate is within every limit on validation, and its drop on test too; of its latency the upper
            end of its interval.
        shortfall: by how much the nearest misses, in words; empty where the goal is met.
        baseline: the original model, in the runtime in which it is fastest on this machine.
        baselines: the original in fp32 in every runtime, and as OpenVINO runs it by default where that is not fp32; with its own accuracy.
        chosen: what ships; its latency and the baselines' are from a session after the choice, the others' from the one that chose.
        pareto_frontier: candidates that no other beats on the metric, latency and size together.
        candidates: all of them, also those stopped early.
        latency_ratio: original / chosen, against whichever of ``baselines`` gives the *smallest* ratio: the headline.
        latency_ratios: the same against each of ``baselines``, by runtime.
        size_ratio: original file / chosen file.
        drop: how much worse the chosen one is on test, paired; in points where the metric is in percent, else in its unit.
        per_class: classes with a metric of their own, on test.
        noise_floor: the ratio's deviation from 1 between two copies of the same file, in %.
        data: name, images per split, how it was split, leaks and duplicates found.
        budget: how much of it was used, and what made the run longer.
        metric: name of the task's primary metric, which is what ``drop`` and all other changes are of.
        class_names: all of them, in the order of the model's outputs; empty where they are those of ``per_class``.
        errors: by kind, on test.
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
    metric: str = "accuracy"
    class_names: tuple[str, ...] = ()
    errors: list[ErrorResult] = Field(default_factory=list)

    @property
    def primary_metric(self) -> Metric:
        """With its unit and direction, as it was measured on test."""
        measured = self.baseline.measurements.get(self.metric)
        return Metric(self.metric) if measured is None else Metric.of(measured)

    def save(self, path: Path) -> None:
        """Write JSON whole, then rename it into place."""
        write_result(path, self)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what ``save`` wrote; raises ``BundleError`` where it is not that."""
        return read_result(path, Result)
