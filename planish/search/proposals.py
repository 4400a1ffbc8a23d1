"""What a search tries, and what it makes of a first look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planish.compression import ChannelPruning, LatencyPruning, Resolution
from planish.measurement import Measurement
from planish.plan import Plan
from planish.search.choose import with_room
from planish.search.result import Goal
from planish.technique import Technique

_AIM_BELOW = 0.97  # of the goal, as the next measurement will not say just the same


@dataclass(frozen=True)
class Level:
    """How strongly to compress: how much faster pruning shall make the layers, and the factor on height and width."""

    speedup: float = 1.0
    resolution: float = 1.0

    @property
    def severity(self) -> float:
        """A guess at how much accuracy it costs, on a scale of its own: only the order of levels and what lies between two is used."""
        return (1 - self.share) ** 2

    @property
    def share(self) -> float:
        """About what is left of the time of one image."""
        return self.resolution**2 / self.speedup

    def plans(self, timed: LatencyPruning) -> list[Plan]:
        """The techniques that change the network's shape, before any training, and what to try where those are refused.

        Layers of a very small network take hardly any time of their own, so that no choice of widths is found to reach the speed; one share
        of channels everywhere may pay all the same.

        Args:
            timed: says where layers are timed, and how. Pruning comes first, so that one table of times serves all resolutions.
        """
        smaller = [Resolution(scale=self.resolution)] if self.resolution < 1 else []
        if self.speedup == 1:
            return [Plan(*smaller)]
        pruned: list[Technique] = [replace(timed, speedup=self.speedup), ChannelPruning(ratio=round(1 - 1 / self.speedup, 2))]
        return [Plan(step, *smaller) for step in pruned]


# In the order in which they are worth a look: first the middle, then both ends, then between.
LEVELS = (
    Level(2.5),
    Level(4.0),
    Level(2.5, 0.75),
    Level(1.5),
    Level(3.0),
    Level(4.0, 0.75),
    Level(1.0, 0.75),
    Level(2.0),
    Level(6.0),
    Level(1.75),
    Level(1.5, 0.75),
    Level(2.0, 0.75),
    Level(1.0, 0.5),
    Level(2.5, 0.5),
)


@dataclass(eq=False)
class Trial:
    """A level on its way through the rungs.

    Args:
        level: how strongly to compress.
        plan: the network so far; it grows with every round of training and ends before export.
        drop: points lost on validation by the network so far; None until it is trained.
        measurements: latency and size of its exported file, which training does not change, and the drop on calibration before training.
        seconds_an_epoch: of training, 0 while unknown.
        stopped: why it gets no more time.
    """

    level: Level
    plan: Plan
    drop: Measurement | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    seconds_an_epoch: float = 0.0
    stopped: str = ""

    @property
    def name(self) -> str:
        return str(Plan(*(step for step in self.plan.steps if step.name != "distill")))

    @property
    def latency_ms(self) -> float:
        return self.measurements["latency_ms"].value


def aimed_at(latency_ms: float, measured: Sequence[Trial]) -> Level | None:
    """The pruning that should just reach a latency, from how fast the others were for what their layers' times promised.

    A network's time is that of what is not pruned, plus a share of the layers' times; both are fitted to what was measured.

    Args:
        latency_ms: to be reached.
        measured: trials with their latency.

    Returns:
        None where fewer than two levels of pruning were measured, no pruning reaches it, or one of them is as good already.
    """
    pruned = [t for t in measured if t.level.resolution == 1 and any(s.name == LatencyPruning.name for s in t.plan.steps)]
    shares = np.array([t.level.share for t in pruned])
    if len(set(shares)) < 2:
        return None
    each, fixed = np.polyfit(shares, [t.latency_ms for t in pruned], 1)
    share = (latency_ms * _AIM_BELOW - fixed) / each if each > 0 else 0.0
    near = any(_AIM_BELOW**2 * latency_ms <= t.latency_ms <= latency_ms for t in pruned)
    if near or not 0 < share < 1:
        return None
    level = Level(round(1 / share, 2))
    return level if level.speedup > 1 and level not in (t.level for t in pruned) else None


def expected_drop(trial: Trial, trained: Sequence[Trial]) -> float:
    """Points lost, with room for noise: measured where the trial was trained, else interpolated between trained ones by severity."""
    known = sorted((t.level.severity, with_room(t.drop)) for t in trained if t.drop is not None)
    if trial in trained and trial.drop is not None:
        return with_room(trial.drop)
    return float(np.interp(trial.level.severity, [severity for severity, _ in known], [points for _, points in known]))


def promise(trial: Trial, drop_points: float, goal: Goal, slack_points: float) -> float:
    """How much a trial deserves more time: doublings of speed, less what it lacks in accuracy and in reaching the goal.

    Args:
        trial: with its latency measured.
        drop_points: it is expected to lose, so far.
        goal: the limits.
        slack_points: accuracy that the training still to come is trusted to win back; so much beyond the limit costs one doubling.
    """
    value = math.log2(max(trial.measurements["latency_ratio"].value, 1e-3))
    value -= max(0.0, drop_points - goal.max_drop_points) / slack_points
    if goal.max_latency_ms is not None:
        value -= 4 * max(0.0, math.log2(trial.latency_ms / goal.max_latency_ms))
    if goal.max_size_bytes is not None:
        value -= 4 * max(0.0, math.log2(trial.measurements["size_bytes"].value / goal.max_size_bytes))
    return value


def spread(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The middles of ``count`` equal parts, from fast to slow, of the trials that no other beats in speed and in severity.

    Before any training a pruned network is near guessing, however well it would recover; so the first rung does not bet on its accuracy.
    """
    by_speed = sorted(trials, key=lambda t: t.latency_ms)
    edge: list[Trial] = []
    for trial in by_speed:
        if not edge or trial.level.severity < edge[-1].level.severity:
            edge.append(trial)
    if len(edge) < count:
        edge += [t for t in by_speed if t not in edge][: count - len(edge)]
        edge.sort(key=lambda t: t.latency_ms)
    share = len(edge) / max(1, min(count, len(edge)))
    return [edge[int((i + 0.5) * share)] for i in range(min(count, len(edge)))]
