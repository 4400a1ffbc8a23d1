"""The state of a search."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planish.compression import Int8, QuantizeAware
from planish.devices.layer_latency import Precision
from planish.evaluation.latency import LEAST_LAUNCHES, LatencyReport, LatencySettings
from planish.export import ToOnnx
from planish.export.steps import steps_from_onnx
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan, summary
from planish.progress import log_values
from planish.runs.runner import Runner, extend
from planish.search.evidence import Session
from planish.search.result import CandidateResult, Stage
from planish.search.trials.proposals import Trial
from planish.task import metric_of
from planish.technique import Technique
from planish.training import Distill

ORIGINAL_SESSION = "original"  # timing session of the original in every runtime and precision
_TIMED_SHARE = 0.3  # share of a session's time for timing; the rest is for starting its processes
_TIMING_IMAGES = 16  # calibration images of files that are only timed
_LEAST_TIMED_SECONDS = 0.3  # minimum per subject

Watch = Callable[[Sequence[CandidateResult]], None]
ModelOutputs = tuple[Plan, str]  # a plan, and the runtime that ran it


@dataclass(frozen=True)
class RuntimeVariant:
    """How a network is deployed.

    Args:
        precision: of weights and activations.
        runtime: name of the runtime.
        is_file: whether the network is already an ONNX file.
        for_timing: whether files are only timed: their INT8 ranges, which do not change the latency, come from few images.
    """

    precision: Precision
    runtime: str
    is_file: bool = False
    for_timing: bool = False

    def __str__(self) -> str:
        return f"{self.precision}@{self.runtime}"

    def steps(self) -> Plan:
        """Return the steps that turn a network into the deployed file."""
        steps: list[Technique] = [] if self.is_file else [ToOnnx()]
        if self.precision == "int8":
            int8 = Int8.for_device()
            steps.append(replace(int8, calibration_images=_TIMING_IMAGES, correct_bias=False) if self.for_timing else int8)
        return Plan(*steps, *steps_from_onnx(self.runtime))


@dataclass(frozen=True)
class DeployedCandidate:
    """A network, identified by its plan, together with how it is deployed."""

    network: Plan
    variant: RuntimeVariant

    @property
    def steps(self) -> Plan:
        """The steps that turn the network into the file; ``Int8`` is left out if the network was already quantized or trained for it."""
        rounded = self.learned_rounding or any(step.name == Int8.name for step in self.network.steps)
        return Plan(*(step for step in self.variant.steps().steps if not (rounded and step.name == Int8.name)))

    @property
    def learned_rounding(self) -> bool:
        """Whether the network had quantization-aware training."""
        return any(step.name == QuantizeAware.name for step in self.network.steps)

    @property
    def plan(self) -> Plan:
        return extend(self.network, *self.steps.steps)

    @property
    def runtime(self) -> str:
        return self.variant.runtime

    @property
    def key(self) -> str:
        return f"{self.plan.key}@{self.runtime}"


@dataclass
class Journal:
    """Records made during a search, mainly for the result and its report.

    Args:
        process_seconds: seconds to start and time one process in one launch, as measured in the last timing session.
        candidates: current state of each candidate, by name.
        sessions: timing sessions by name, with candidates by key: the source of the latencies in the result.
        timed_as: key of the file that was timed, by the subject's name in the session and by the key of each candidate that it represents:
            training does not change the latency, so a trained network is not timed again while it is a trial.
        planned: seconds by stage (see ``Store.seconds``) that were estimated or allowed before the stage began.
        drop_sources: by candidate key, the validation outputs that its drop was computed from: its own, and those of its reference.
    """

    process_seconds: float = 1.5
    candidates: dict[str, CandidateResult] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    timed_as: dict[str, str] = field(default_factory=dict)
    planned: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    drop_sources: dict[str, tuple[ModelOutputs, ModelOutputs]] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """The state of a search: its limits, how candidates are deployed and trained, and the records so far.

    Args:
        runner: applies plans and caches the results.
        goal: the limits.
        threads: number of threads of the runtime.
        batch: batch size.
        recovery: how compressed networks are trained; its epochs are the maximum of one round.
        mild_rate: learning rate of recovery for a network that has lost little.
        trained_before: whether the original came trained, rather than being trained in this run.
        budget: seconds for the whole run.
        least_seconds: minimum time of the whole run, as estimated at its start.
        allowed: runtimes that candidates may be deployed in.
        fp32: the original in fp32, one variant per runtime, the fastest first.
        defaults: the original in runtimes whose default precision is less than float32.
        deployment: how candidates are deployed.
        students: names of other architectures to distill to.
        teachers: folders of the teachers; empty if the original is the only one.
        mixed_precision: whether pruning may also leave layers in float.
        watch: called with all candidates whenever one is added or updated.
        journal: records made during the search.
    """

    runner: Runner
    goal: Goal
    threads: int
    batch: int
    recovery: Distill
    mild_rate: float
    trained_before: bool
    budget: float
    least_seconds: float
    allowed: tuple[str, ...]
    fp32: tuple[RuntimeVariant, ...]
    defaults: tuple[RuntimeVariant, ...]
    deployment: RuntimeVariant
    students: tuple[str, ...]
    teachers: tuple[str, ...]
    mixed_precision: bool
    watch: Watch
    journal: Journal

    @property
    def originals(self) -> tuple[DeployedCandidate, ...]:
        """The original in fp32 and in default precision, which candidates are compared with."""
        return tuple(DeployedCandidate(Plan(), variant) for variant in (*self.fp32, *self.defaults))

    @property
    def seconds_left(self) -> float:
        """Seconds left of the budget, by the run's clock (``Store.elapsed``), so that a resumed run reads the same times as before."""
        return self.budget - self.runner.store.elapsed

    def latency(
        self, name: str, subjects: Mapping[str, DeployedCandidate], baseline: str, *, seconds: float, launches: int, at_most: float
    ) -> LatencyReport:
        """Measure latency side by side and record the session; see ``Runner.latency``.

        Args:
            name: name of the session.
            subjects: candidates by name.
            baseline: name of the subject that ratios are relative to.
            seconds: timing per subject; reduced if ``at_most`` is short.
            launches: how often all processes are started.
            at_most: maximum seconds for the whole session.
        """
        pairs = {key: (shipped.plan, shipped.runtime) for key, shipped in subjects.items()}
        processes = len(subjects) + 1  # with the second copy of the baseline
        least = LEAST_LAUNCHES * processes * self.journal.process_seconds
        seconds = max(_LEAST_TIMED_SECONDS, min(seconds, _TIMED_SHARE * at_most / processes))
        self.journal.planned["measuring latency"] += max(least, at_most) if at_most < math.inf else least
        settings = LatencySettings(self.threads, self.batch, seconds, launches, at_most=at_most)
        report = self.runner.latency(name, pairs, baseline, settings)
        self.journal.process_seconds = report.seconds / (report.launches * processes)
        keys = {subject: shipped.key for subject, shipped in subjects.items() if subject != baseline} | {baseline: subjects[baseline].key}
        rounds = {key: report.round_medians[subject] for subject, key in keys.items()}
        samples = {key: report.samples[subject] for subject, key in keys.items()}
        self.journal.sessions[name] = Session(name, keys[baseline], rounds, report.copy_medians, samples)
        self.journal.timed_as |= keys
        return report

    def drop(self, shipped: DeployedCandidate, against: DeployedCandidate) -> Measurement:
        """Return the drop of a file on validation relative to another one."""
        own, other = (shipped.plan, shipped.runtime), (against.plan, against.runtime)
        self.journal.drop_sources[shipped.key] = own, other
        return self.runner.drop(*own, other, "validation")

    def drop_risk(self, shipped: DeployedCandidate, against: DeployedCandidate) -> Measurement:
        """Return the risk, in percent, that this drop on new images is above the limit."""
        other = against.plan, against.runtime
        return self.runner.drop_risk(shipped.plan, shipped.runtime, other, "validation", self.goal.max_drop_points)

    def knowledge(self) -> float:
        """Return the original's score on validation: in percent, or, for a metric in another unit, its difference from guessing."""
        task, metric = self.runner.task, metric_of(self.runner.task)
        score = self.runner.score(Plan(), "torch", "validation")
        return score if metric.unit == "%" else abs(metric.scale * task.guessing(task.split("validation").targets) - score)

    def show(
        self, name: str, shipped: DeployedCandidate, stage: Stage, measurements: dict[str, Measurement], reason: str = ""
    ) -> CandidateResult:
        """Record the current state of the candidate ``name``, and call ``watch``."""
        known = CandidateResult(
            key=shipped.key,
            plan=shipped.plan.to_dicts(),
            summary=summary(self.runner.artifact(shipped.network).lineage, shipped.steps),
            runtime=shipped.runtime,
            stage=stage,
            measurements=measurements,
            reason=reason,
        )
        self.journal.candidates[name] = known
        about = {"key": known.key, "summary": known.summary, "runtime": known.runtime, "stage": stage, "reason": reason}
        log_values({measured: m.value for measured, m in measurements.items()}, subject=name, about=about)
        self.watch(list(self.journal.candidates.values()))
        return known

    def show_trial(self, trial: Trial) -> Trial:
        """Do the same for a trial, under its own name; return the trial."""
        known, shipped = dict(trial.measurements), DeployedCandidate(trial.plan, self.deployment)
        untrained = str(Plan(*(step for step in trial.plan.steps if step.name not in (Distill.name, QuantizeAware.name))))
        if untrained in self.journal.timed_as:
            self.journal.timed_as[shipped.key] = self.journal.timed_as[untrained]
        if trial.drop is not None:
            known["drop_validation"] = trial.drop
            is_file = self.runner.original.module is None
            own = (shipped.plan, shipped.runtime) if is_file or shipped.learned_rounding else (trial.plan, "torch")
            against = (DeployedCandidate(Plan(), self.fp32[0]).plan, self.fp32[0].runtime) if is_file else (Plan(), "torch")
            self.journal.drop_sources[shipped.key] = own, against
        stage: Stage = "trained" if any(s.name == "distill" for s in trial.plan.steps) else "screened"
        self.show(trial.name, shipped, stage, known, trial.stopped)
        return trial
