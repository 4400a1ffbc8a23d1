"""The levels of compression that a search tries, and how it ranks trials."""

from __future__ import annotations

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

_PER_DOUBLING = 0.75  # approximate factor on a drop when the training time doubles
_SHRINKS = (0.55, 0.95)  # plausible range of that factor; estimates outside it are noise
_POINTS_A_DOUBLING = 0.7  # points beyond the limit that cancel a doubling of speed: about the noise of validation
_LEAST_POINTS = 0.1  # lower bound of a drop on a log scale, since it may be 0
_EASY_POINTS = 15.0  # a drop before training that a little training recovers
# Drops before training, relative to the original's score: one that takes much training to recover, and one that takes a few epochs.
_MUCH, _LITTLE = 0.5, 0.25
_SLOWEST, _FASTEST = 1.1, 20.0  # range of the speed-up that layers are pruned to
_AIM_BELOW = 0.94  # target relative to the latency limit, since the whole confidence interval of the measurement must be below the limit
_AIM_DROP = 0.6  # target relative to the maximum drop, for the same reason; validation scores are noisier than latency


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
    def severity(self) -> float:
        """A rough estimate of the accuracy cost, in arbitrary units: used only to order levels and to interpolate between them."""
        return (1 - self.share) ** 2

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


# In the order in which they are screened: mild levels first, since if there is time to screen few, there is little time for recovery.
LEVELS = (
    Level(1.5),
    Level(2.5),
    Level(4.0),
    Level(blocks=0.5),
    Level(2.5, 0.75),
    Level(2.5, blocks=0.5),
    Level(3.0),
    Level(4.0, 0.75),
    Level(1.0, 0.75),
    Level(2.0),
    Level(1.75, blocks=0.3),
    Level(6.0),
    Level(1.75),
    Level(blocks=0.3),
    Level(1.5, 0.75),
    Level(2.0, 0.75),
    Level(1.0, 0.5),
    Level(2.5, 0.5),
)


@dataclass(frozen=True, eq=False)
class Trial:
    """The state of a level in the search; each phase returns an updated copy.

    Args:
        level: how strongly to compress.
        plan: the steps so far; each round of training adds one. Export steps are not included.
        drop: drop on validation after the steps so far; None until it is trained.
        measurements: latency and size of its exported file, which training does not change, and the drop on calibration before training.
        gain: speed-up of its file over the uncompressed network in the same precision.
        seconds_an_epoch: seconds of one epoch of training; 0 while unknown.
        history: after each round, the seconds of training so far and the upper bound of the drop (``drop_upper_bound``).
        stopped: why the trial was stopped; empty if it was not.
    """

    level: Level
    plan: Plan
    drop: Measurement | None = None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    gain: float = 1.0
    seconds_an_epoch: float = 0.0
    history: tuple[tuple[float, float], ...] = ()
    stopped: str = ""

    @property
    def name(self) -> str:
        return str(Plan(*(step for step in self.plan.steps if step.name != "distill")))

    @property
    def latency_ms(self) -> float:
        return self.measurements["latency_ms"].value


def next_stronger(trials: Sequence[Trial], point: float = 1.0) -> Level | None:
    """Return the next stronger level of pruning if the strongest one so far has a small drop before training.

    None if its drop is large, its speed-up is at the maximum, or latency pruning did not apply to it.

    Args:
        trials: screened trials.
        point: see ``Goal``.
    """
    strongest = max((t for t in trials if t.level.widths_alone), key=lambda t: t.level.speedup, default=None)
    if strongest is None or not time_trials([strongest]) or strongest.level.speedup >= _FASTEST:
        return None
    easy = strongest.measurements["drop_calibration"].value < _EASY_POINTS * point
    return Level(round(1.5 * strongest.level.speedup, 2)) if easy else None


def next_milder(trials: Sequence[Trial], original: float) -> Level | None:
    """Return the next milder level of pruning if the mildest one so far loses too much before training to recover in time; else None.

    Args:
        trials: screened trials.
        original: score of the original on calibration images, see ``Search.knowledge``.
    """
    mildest = min((t for t in trials if t.level.widths_alone), key=lambda t: t.level.speedup, default=None)
    if mildest is None or not time_trials([mildest]) or mildest.measurements["drop_calibration"].value < _MUCH * original:
        return None
    speedup = round(mildest.level.speedup**0.5, 2)
    return Level(speedup) if speedup > _SLOWEST else None


def safest_trial(trials: Sequence[Trial], original: float) -> Trial:
    """Return the trial to train if there is little time: the fastest that keeps three quarters of the score, else the one that keeps most.

    Args:
        trials: screened trials.
        original: see ``next_milder``.
    """

    def lost(trial: Trial) -> float:
        return trial.measurements["drop_calibration"].value

    able = [t for t in trials if not t.level.student and lost(t) < _LITTLE * original]
    return min(able, key=lambda t: t.latency_ms) if able else min(trials, key=lost)


def time_trials(measured: Sequence[Trial]) -> list[Trial]:
    """Return the trials that use latency pruning only."""
    return [t for t in measured if t.level.widths_alone and any(s.name == LatencyPruning.name for s in t.plan.steps)]


def fitted(pruned: Sequence[Trial]) -> tuple[float, float] | None:
    """Fit the measured latencies: return the milliseconds of all prunable layers and of the rest of the network.

    This calibrates the table of layer latencies with measured files. None if fewer than two levels were measured.
    """
    shares = np.array([t.level.share for t in pruned])
    if len(set(shares)) < 2:
        return None
    each, fixed = np.polyfit(shares, [t.latency_ms for t in pruned], 1)
    return float(each), float(fixed)


def level_for_latency(latency_ms: float, measured: Sequence[Trial]) -> Level | None:
    """Return the level of pruning that should just reach a latency.

    A network's latency is modelled as that of the parts that are not pruned plus a share of the layers' time; both are fitted to the
    measured trials.

    Args:
        latency_ms: target latency.
        measured: trials with their latency.

    Returns:
        The level; None if fewer than two levels of pruning were measured, no pruning reaches the latency, or a trial is already close.
    """
    pruned = time_trials(measured)
    if (line := fitted(pruned)) is None:
        return None
    each, fixed = line
    share = (latency_ms * _AIM_BELOW - fixed) / each if each > 0 else 0.0
    near = any(_AIM_BELOW**2 * latency_ms <= t.latency_ms <= latency_ms for t in pruned)
    if near or not 1 / _FASTEST <= share < 1:
        return None
    level = Level(round(1 / share, 2))
    return level if level.speedup > 1 and level not in (t.level for t in pruned) else None


def expected_drop(trial: Trial, trained: Sequence[Trial], seconds: float = 0.0, point: float = 1.0) -> float:
    """Predict the upper bound of the drop after ``seconds`` more of training; ``point`` is that of the ``Goal``.

    A drop shrinks by about the same factor each time the training time doubles: the factor of the trial's last two rounds, or a typical
    value. For an untrained trial the drop is interpolated between trained trials, by severity and on a log scale, since the last channels
    cost the most. The uncompressed network, with almost no drop, is the mildest point of the interpolation.
    """
    if trial.history:
        spent, drop = trial.history[-1]
        shrinks = _PER_DOUBLING
        if len(trial.history) > 1 and (before := trial.history[-2])[1] > 0.5 * point and drop > 0:
            doublings = math.log2(spent / before[0])
            shrinks = float(np.clip((drop / before[1]) ** (1 / max(doublings, 0.1)), *_SHRINKS))
        return drop * shrinks ** math.log2(1 + seconds / spent) if drop > 0 else drop
    known = sorted((t.level.severity, expected_drop(t, trained, seconds, point)) for t in trained if not t.level.student)
    if trial.level.student or not known:
        return math.inf
    if known[0][0] > 0:
        known.insert(0, (0.0, _LEAST_POINTS * point))
    logs = [math.log(max(lost, _LEAST_POINTS * point)) for _, lost in known]
    return math.exp(np.interp(trial.level.severity, [severity for severity, _ in known], logs))


def interpolated_level(trained: Sequence[Trial], seconds: float, goal: Goal) -> float:
    """Return the speed-up of the layers that should meet the limit on the drop, if no trained trial is expected to.

    It is interpolated as in ``expected_drop``, between the uncompressed network and the trial with the smallest expected drop.

    Args:
        trained: trials with their drop.
        seconds: seconds of training to come.
        goal: the limits.

    Returns:
        The speed-up; 0 if a trial is expected to meet the limit, or there is no useful level in between.
    """
    drops = {t: expected_drop(t, trained, seconds, goal.point) for t in time_trials(trained)}
    wanted, least = _AIM_DROP * goal.max_drop_points, _LEAST_POINTS * goal.point
    if not drops or wanted <= least or min(drops.values()) <= goal.max_drop_points:
        return 0.0
    nearest = min(drops, key=lambda t: drops[t])
    part = math.log(wanted / least) / math.log(drops[nearest] / least)
    speedup = round(1 / (1 - math.sqrt(part * nearest.level.severity)), 2)
    return speedup if speedup > _SLOWEST else 0.0


def priority(trial: Trial, drop: float, goal: Goal) -> float:
    """Return the priority of a trial for more training: log2 of its speed-up, minus penalties for exceeding the limits.

    Args:
        trial: a trial whose latency was measured.
        drop: expected drop at the end of the search.
        goal: the limits.
    """
    value = math.log2(max(trial.measurements["latency_ratio"].value, 1e-3))
    value -= max(0.0, drop - goal.max_drop_points) / (_POINTS_A_DOUBLING * goal.point)
    if goal.max_latency_ms is not None:
        value -= 4 * max(0.0, math.log2(trial.latency_ms / goal.max_latency_ms))
    if goal.max_size_bytes is not None:
        value -= 4 * max(0.0, math.log2(trial.measurements["size_bytes"].value / goal.max_size_bytes))
    return value


def select_spread(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Select up to ``count`` trials, evenly spread from fast to slow over the Pareto frontier of latency and severity.

    The accuracy of a pruned network before training says little about how well it will recover, so the first rung does not use it. Up to
    half of the selected trials are students.
    """
    students = [t for t in trials if t.level.student][: count // 2]
    count -= len(students)
    by_speed = sorted((t for t in trials if not t.level.student), key=lambda t: t.latency_ms)
    edge: list[Trial] = []
    for trial in by_speed:
        if not edge or trial.level.severity < edge[-1].level.severity:
            edge.append(trial)
    if len(edge) < count:
        edge += [t for t in by_speed if t not in edge][: count - len(edge)]
        edge.sort(key=lambda t: t.latency_ms)
    share = len(edge) / max(1, min(count, len(edge)))
    return [edge[int((i + 0.5) * share)] for i in range(min(count, len(edge)))] + students
