"""What one search knows on its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from planish.compression import Int8
from planish.export import ToOnnx, ToOpenVino
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.result import CandidateResult, Goal
from planish.search.runner import Runner, extend
from planish.search.summary import summary
from planish.technique import Technique
from planish.training.settings import Augmentation

Watch = Callable[[Sequence[CandidateResult]], None]


@dataclass(frozen=True)
class Deployment:
    """How a network is put on a runtime: its precision and the runtime."""

    precision: str
    runtime: str

    def plan(self, network: Plan) -> Plan:
        """``network`` with the steps that make the file this deployment ships."""
        steps: list[Technique] = [ToOnnx()]
        if self.precision == "int8":
            steps.append(Int8())
        if self.runtime == "openvino":
            steps.append(ToOpenVino())
        return extend(network, *steps)


@dataclass
class Search:
    """The job's limits, the time left, and all candidates so far.

    Args:
        runner: carries plans out.
        goal: the limits.
        threads: the runtime may use.
        batch: images a call.
        most_epochs: of one round of training.
        augmentation: of training images.
        deadline: on the clock of ``time.monotonic``.
        watch: told of all candidates whenever something about one becomes known.
        fp32: the original in fp32, one deployment a runtime.
        deployment: how candidates are deployed.
    """

    runner: Runner
    goal: Goal
    threads: int
    batch: int
    most_epochs: int
    augmentation: Augmentation
    deadline: float
    watch: Watch
    fp32: tuple[Deployment, ...]
    deployment: Deployment
    candidates: dict[str, CandidateResult] = field(default_factory=dict)

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def show(
        self,
        name: str,
        plan: Plan,
        runtime: str,
        stage: str,
        measurements: dict[str, Measurement],
        *,
        meets_goal: bool = False,
        why: str = "",
    ) -> CandidateResult:
        """Keep what is known by now of the candidate called ``name``, and tell who watches."""
        known = CandidateResult(
            key=f"{plan.key}@{runtime}",
            plan=plan.to_dicts(),
            summary=summary(self.runner.artifact(plan).lineage),
            runtime=runtime,
            stage=stage,  # type: ignore[arg-type]
            measurements=measurements,
            meets_goal=meets_goal,
            why=why,
        )
        self.candidates[name] = known
        self.watch(list(self.candidates.values()))
        return known
