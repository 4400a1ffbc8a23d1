"""What one search knows on its way."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from planish.compression import Int8, QuantizeAware
from planish.devices.layer_latency import Precision
from planish.evaluation.latency import LEAST_LAUNCHES, LatencyReport, LatencySettings
from planish.export import ToOnnx, ToOpenVino
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan, summary
from planish.runs.runner import Runner, extend
from planish.search.evidence import Session
from planish.search.proposals import Trial
from planish.search.result import CandidateResult, Stage
from planish.task import metric_of
from planish.technique import Technique
from planish.training import Distill

ORIGINAL_SESSION = "original"  # of timing: the original in every runtime and precision
_TIMED_SHARE = 0.3  # of a session's time; the rest is for starting its processes
_LEAST_TIMED_SECONDS = 0.3  # for each subject

Watch = Callable[[Sequence[CandidateResult]], None]
ModelOutputs = tuple[Plan, str]  # a plan, and the runtime that ran it


@dataclass(frozen=True)
class RuntimeVariant:
    """How a network is put on a runtime: its precision, the runtime, and whether the network is an ONNX file already."""

    precision: Precision
    runtime: str
    is_file: bool = False

    def __str__(self) -> str:
        return f"{self.precision}@{self.runtime}"

    def steps(self) -> Plan:
        """What makes the file that ships from a network."""
        steps: list[Technique] = [] if self.is_file else [ToOnnx()]
        if self.precision == "int8":
            steps.append(Int8.for_this_machine())
        if self.runtime.startswith("openvino"):
            steps.append(ToOpenVino())
        return Plan(*steps)


@dataclass(frozen=True)
class DeployedCandidate:
    """A network, named by its plan, as it is deployed."""

    network: Plan
    variant: RuntimeVariant

    @property
    def steps(self) -> Plan:
        """What makes the file from the network; one that was rounded already, or trained with rounding, brings its own scales."""
        rounded = self.learned_rounding or any(step.name == Int8.name for step in self.network.steps)
        return Plan(*(step for step in self.variant.steps().steps if not (rounded and step.name == Int8.name)))

    @property
    def learned_rounding(self) -> bool:
        """Whether the network was trained with the rounding of INT8."""
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
    """What is written down on the way, for the result and its page. Only the time that processes take is read by the search itself.

    Args:
        process_seconds: that starting and timing one process takes in one launch, as measured in the last session of timing.
        candidates: what is known of each, by its name.
        sessions: what was timed side by side, by the session's name, candidates by their keys: where latencies in the result come from.
        timed_as: the key of the file that was timed, by the subject's name in a session and by the key of what it stands for: training
            changes no latency, so a trained network is not timed anew while it is a trial.
        planned: seconds by stage (see ``Store.seconds``) that were estimated or allowed before the stage began.
        judged: from which outputs on validation a candidate's drop was computed, by its key: its own, and those that it is compared with.
    """

    process_seconds: float = 1.5
    candidates: dict[str, CandidateResult] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    timed_as: dict[str, str] = field(default_factory=dict)
    planned: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    judged: dict[str, tuple[ModelOutputs, ModelOutputs]] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """The job's limits, and how candidates are deployed and trained.

    Args:
        runner: carries plans out.
        goal: the limits.
        threads: the runtime may use.
        batch: images in a batch.
        recovery: how pruned networks are trained, with as many epochs as a round may have at most.
        budget: seconds for the whole run.
        least_seconds: that the whole run was estimated to take at least, when it began.
        allowed: runtimes that may ship.
        fp32: the original in fp32, one deployment a runtime, the fastest first.
        defaults: the original in runtimes that compute in less than float32 where no precision is asked for.
        deployment: how candidates are deployed.
        students: architectures that are taught instead, by name.
        teachers: folders of the networks that teach; empty for the original alone.
        mixed_precision: whether pruning may also leave layers float.
        watch: called with all candidates whenever something about one becomes known.
        journal: what is written down.
    """

    runner: Runner
    goal: Goal
    threads: int
    batch: int
    recovery: Distill
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
        """What candidates are compared with: the original in fp32, and in default precision."""
        return tuple(DeployedCandidate(Plan(), variant) for variant in (*self.fp32, *self.defaults))

    @property
    def seconds_left(self) -> float:
        """By the run's own clock, see ``Store.elapsed``: a resumed run reads the times that it read before."""
        return self.budget - self.runner.store.elapsed

    def latency(
        self, name: str, subjects: Mapping[str, DeployedCandidate], baseline: str, *, seconds: float, launches: int, at_most: float
    ) -> LatencyReport:
        """Measure side by side; see ``Runner.latency``."""
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
        """How much worse a file is on validation than another one."""
        own, other = (shipped.plan, shipped.runtime), (against.plan, against.runtime)
        self.journal.judged[shipped.key] = own, other
        return self.runner.drop(*own, other, "validation")

    def knowledge(self) -> float:
        """What the original reaches on calibration images, in percent; or, by a metric in another unit, beyond guessing."""
        task, metric = self.runner.task, metric_of(self.runner.task)
        score = self.runner.score(Plan(), "torch", "calibration")
        return score if metric.unit == "%" else abs(metric.scale * task.guessing(task.split("calibration").targets) - score)

    def show(
        self, name: str, shipped: DeployedCandidate, stage: Stage, measurements: dict[str, Measurement], reason: str = ""
    ) -> CandidateResult:
        """Keep what is known by now of the candidate called ``name``, and tell who watches."""
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
        self.watch(list(self.journal.candidates.values()))
        return known

    def show_trial(self, trial: Trial) -> Trial:
        """The same for a trial, by its own name; returns it."""
        known, shipped = dict(trial.measurements), DeployedCandidate(trial.plan, self.deployment)
        untrained = str(Plan(*(step for step in trial.plan.steps if step.name not in (Distill.name, QuantizeAware.name))))
        if untrained in self.journal.timed_as:
            self.journal.timed_as[shipped.key] = self.journal.timed_as[untrained]
        if trial.drop is not None:
            known["drop_validation"] = trial.drop
            is_file = self.runner.original.module is None
            own = (shipped.plan, shipped.runtime) if is_file or shipped.learned_rounding else (trial.plan, "torch")
            against = (DeployedCandidate(Plan(), self.fp32[0]).plan, self.fp32[0].runtime) if is_file else (Plan(), "torch")
            self.journal.judged[shipped.key] = own, against
        stage: Stage = "trained" if any(s.name == "distill" for s in trial.plan.steps) else "screened"
        self.show(trial.name, shipped, stage, known, trial.stopped)
        return trial
