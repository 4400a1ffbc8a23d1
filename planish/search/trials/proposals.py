"""The levels of compression that a search tries, and how it ranks trials."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planish.compression import BlockPruning, ChannelPruning, LatencyPruning, Resolution
from planish.goal import Goal
from planish.measurement import Measurement
from planish.plan import Plan
from planish.technique import Technique
from planish.training.distillation.student import Student

_POINTS_A_DOUBLING = 0.7  # points beyond the limit that cancel a doubling of speed: about the noise of validation
_AIM_BELOW = 0.94  # target relative to the latency limit, since the whole confidence interval of the measurement must be below the limit
_LEAST_SPEEDUP, _MOST_SPEEDUP = 1.1, 30.0  # range of levels on the grid, by their share of the network


@dataclass(frozen=True)
class Level:
    """How strongly to compress a network.

    Args:
        speedup: target speed-up of the layers through pruning.
        resolution: factor on the height and width of the input.
        blocks: share of residual blocks to remove, before anything else.
        student: name of another architecture to distill to instead; empty for none.
    """

    speedup: float = 1.0
    resolution: float = 1.0
    blocks: float = 0.0
    student: str = ""

    @property
    def share(self) -> float:
        """Approximate latency of one image relative to the uncompressed network."""
        return (1 - self.blocks) * self.resolution**2 / self.speedup

    @property
    def widths_alone(self) -> bool:
        """Whether only the widths of layers, and possibly their ranks, are changed."""
        return self.resolution == 1 and self.blocks == 0 and not self.student

    def plans(self, pruning: LatencyPruning) -> list[Plan]:
        """Return the techniques that change the network's structure, before any training, followed by a fallback.

        In a very small network layers take so little time that latency pruning may find no widths that reach the speed-up. The fallback,
        the same pruning ratio in all layers, may still make the network faster.

        Args:
            pruning: settings of latency pruning, including where layers are timed. Pruning precedes the change of resolution, so that one
                table of layer latencies serves all resolutions; only blocks are removed before it, since their layers need no width.
        """
        shorter = [BlockPruning(pruning_ratio=self.blocks)] if self.blocks else []
        smaller = [Resolution(scale=self.resolution)] if self.resolution < 1 else []
        if self.student:
            return [Plan(*smaller, Student(model=self.student))]
        if self.speedup == 1:
            return [Plan(*shorter, *smaller)]
        pruned: list[Technique] = [replace(pruning, speedup=self.speedup), ChannelPruning(pruning_ratio=round(1 - 1 / self.speedup, 2))]
        return [Plan(*shorter, step, *smaller) for step in pruned]


# The levels that are screened first, from which all others are predicted: mild levels first, since if there is time to screen few, there is
# little time for recovery.
FIRST_LEVELS = (Level(1.5), Level(2.5), Level(1.0, 0.75), Level(blocks=0.5), Level(4.0), Level(2.5, 0.75))
# All others, small steps in each direction and their combinations.
GRID = tuple(
    level
    for level in itertools.starmap(
        Level,
        itertools.product(
            (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 11.0, 15.0), (1.0, 0.875, 0.75, 0.625, 0.5), (0.0, 0.3, 0.5)
        ),
    )
    if 1 / _MOST_SPEEDUP <= level.share <= 1 / _LEAST_SPEEDUP
)


@dataclass(frozen=True, eq=False)
class Trial:
    """The state of a level in the search; each phase returns an updated copy.

    Args:
        level: how strongly to compress.
        plan: the steps so far; each round of training adds one. Export steps are not included.
        measurements: latency and size of its exported file, which training does not change, and the drop on validation before training.
        gain: speed-up of its file over the uncompressed network in the same precision.
        step_seconds: seconds of one training step; 0 while unknown.
        history: after each round of training, the number of steps so far and the drop on validation.
        stopped: why the trial was stopped; empty if it was not.
    """

    level: Level
    plan: Plan
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    gain: float = 1.0
    step_seconds: float = 0.0
    history: tuple[tuple[float, Measurement], ...] = ()
    stopped: str = ""

    @property
    def name(self) -> str:
        return str(Plan(*(step for step in self.plan.steps if step.name != "distill")))

    @property
    def drop(self) -> Measurement | None:
        """Drop on validation after the last round of training; None until it is trained."""
        return self.history[-1][1] if self.history else None

    @property
    def last_drop(self) -> Measurement:
        """Drop on validation after the last round of training; before any training if there was none."""
        return self.drop or self.measurements["drop_untrained"]

    @property
    def latency_ms(self) -> float:
        return self.measurements["latency_ms"].value


def time_trials(measured: Sequence[Trial]) -> list[Trial]:
    """Return the trials that use latency pruning only."""
    return [t for t in measured if t.level.widths_alone and any(s.name == LatencyPruning.name for s in t.plan.steps)]


def fitted(pruned: Sequence[Trial]) -> tuple[float, float] | None:
    """Fit the measured latencies: return the milliseconds of all prunable layers and of the rest of the network.

    None if fewer than two levels were measured.
    """
    shares = np.array([t.level.share for t in pruned])
    if len(set(shares)) < 2:
        return None
    each, fixed = np.polyfit(shares, [t.latency_ms for t in pruned], 1)
    return float(each), float(fixed)


def value(gain: float, latency_ms: float, size_bytes: float, goal: Goal) -> float:
    """Return the value of a candidate within the limit on the drop: log2 of its speed-up, minus penalties for exceeding the other limits.

    Args:
        gain: speed-up over the uncompressed network in the same precision.
        latency_ms: latency.
        size_bytes: size of the file.
        goal: the limits.
    """
    found = math.log2(max(gain, 1e-3))
    if goal.max_latency_ms is not None:
        found -= 4 * max(0.0, math.log2(latency_ms / (_AIM_BELOW * goal.max_latency_ms)))
    if goal.max_size_bytes is not None:
        found -= 4 * max(0.0, math.log2(size_bytes / goal.max_size_bytes))
    return found


def value_of(trial: Trial, goal: Goal) -> float:
    """Return the ``value`` of a trial whose latency was measured."""
    return value(trial.gain, trial.latency_ms, trial.measurements["size_bytes"].value, goal)


def priority(trial: Trial, drop: float, goal: Goal) -> float:
    """Return the value of a trial, minus a penalty for the part of its drop that is beyond the limit.

    Args:
        trial: a trial whose latency was measured.
        drop: upper bound of its drop.
        goal: the limits.
    """
    return value_of(trial, goal) - max(0.0, drop - goal.max_drop_points) / (_POINTS_A_DOUBLING * goal.point)
