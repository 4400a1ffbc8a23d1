"""What a search tries, and what it makes of a first look."""

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

_PER_DOUBLING = 0.75  # of a drop is left when training has doubled, about
_SHRINKS = (0.55, 0.95)  # between these; beyond, it is noise
_POINTS_A_DOUBLING = 0.7  # beyond the limit cost as much as a doubling of speed brings: the noise of validation
_LEAST_POINTS = 0.1  # a drop may be none
_EASY_POINTS = 15.0  # lost before any training are won back in a little of it
_MUCH, _LITTLE = 0.5, 0.25  # of the original's score, lost before any training: what takes much recovery, and what a few epochs win back
_SLOWEST, _FASTEST = 1.1, 20.0  # times, that layers are pruned to
_AIM_BELOW = 0.94  # of the goal, as the whole interval of the next measurement has to lie within it
_AIM_DROP = 0.6  # of the points that may be lost, likewise: validation is noisier than a clock


@dataclass(frozen=True)
class Level:
    """How strongly to compress: how much faster pruning shall make the layers, the factor on height and width, and the share of residual
    blocks that goes first; or another architecture, by name, to be taught instead.
    """

    speedup: float = 1.0
    resolution: float = 1.0
    blocks: float = 0.0
    student: str = ""

    @property
    def severity(self) -> float:
        """A guess at how much accuracy it costs, on a scale of its own: only the order of levels and what lies between two is used."""
        return (1 - self.share) ** 2

    @property
    def share(self) -> float:
        """About what is left of the time of one image."""
        return (1 - self.blocks) * self.resolution**2 / self.speedup

    @property
    def widths_alone(self) -> bool:
        """Whether nothing but widths, and perhaps ranks, is changed."""
        return self.resolution == 1 and self.blocks == 0 and not self.student

    def plans(self, pruning: LatencyPruning) -> list[Plan]:
        """The techniques that change the network's shape, before any training, and what to try where those are refused.

        Layers of a very small network take hardly any time of their own, so that no choice of widths is found to reach the speed; one share
        of channels everywhere may pay all the same.

        Args:
            pruning: says where layers are timed, and how. Pruning comes first, so that one table of times serves all resolutions;
                only blocks go before it, whose layers need no width.
        """
        shorter = [BlockPruning(pruning_ratio=self.blocks)] if self.blocks else []
        smaller = [Resolution(scale=self.resolution)] if self.resolution < 1 else []
        if self.student:
            return [Plan(*smaller, Student(model=self.student))]
        if self.speedup == 1:
            return [Plan(*shorter, *smaller)]
        pruned: list[Technique] = [replace(pruning, speedup=self.speedup), ChannelPruning(pruning_ratio=round(1 - 1 / self.speedup, 2))]
        return [Plan(*shorter, step, *smaller) for step in pruned]


# In the order in which they are worth a look: mild ones first, as where there is time for few looks there is little for recovery.
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
    """A level as far as it came: a phase makes a new one of it.

    Args:
        level: how strongly to compress.
        plan: the network so far; it grows with every round of training and ends before export.
        drop: on validation by the network so far; None until it is trained.
        measurements: latency and size of its exported file, which training does not change, and the drop on calibration before training.
        gain: how much faster its file is than the uncompressed network's in the same precision.
        seconds_an_epoch: of training, 0 while unknown.
        history: seconds of training so far, and the drop then, with room for noise; after each round.
        stopped: why it gets no more time.
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
    """The next stronger pruning, while the strongest so far costs hardly anything before any training; None where it costs much, or where
    pruning by timed layers was refused already.

    Args:
        trials: that were looked at.
        point: see ``Goal``.
    """
    strongest = max((t for t in trials if t.level.widths_alone), key=lambda t: t.level.speedup, default=None)
    if strongest is None or not time_trials([strongest]) or strongest.level.speedup >= _FASTEST:
        return None
    easy = strongest.measurements["drop_calibration"].value < _EASY_POINTS * point
    return Level(round(1.5 * strongest.level.speedup, 2)) if easy else None


def next_milder(trials: Sequence[Trial], original: float) -> Level | None:
    """The next milder pruning, while the mildest so far takes much of what the network knows: less than that may be won back in time.

    Args:
        trials: that were looked at.
        original: what the original reaches on calibration images, see ``Search.knowledge``.
    """
    mildest = min((t for t in trials if t.level.widths_alone), key=lambda t: t.level.speedup, default=None)
    if mildest is None or not time_trials([mildest]) or mildest.measurements["drop_calibration"].value < _MUCH * original:
        return None
    speedup = round(mildest.level.speedup**0.5, 2)
    return Level(speedup) if speedup > _SLOWEST else None


def safest_trial(trials: Sequence[Trial], original: float) -> Trial:
    """Where there is time for little training: the fastest that keeps three quarters of what the network knows, else what keeps most.

    Args:
        trials: that were looked at.
        original: see ``next_milder``.
    """

    def lost(trial: Trial) -> float:
        return trial.measurements["drop_calibration"].value

    able = [t for t in trials if not t.level.student and lost(t) < _LITTLE * original]
    return min(able, key=lambda t: t.latency_ms) if able else min(trials, key=lost)


def time_trials(measured: Sequence[Trial]) -> list[Trial]:
    """Those pruned by timed layers alone."""
    return [t for t in measured if t.level.widths_alone and any(s.name == LatencyPruning.name for s in t.plan.steps)]


def fitted(pruned: Sequence[Trial]) -> tuple[float, float] | None:
    """Milliseconds of all timed layers, and of the rest of the network: what corrects the table of times by files that were measured.

    None where fewer than two levels were.
    """
    shares = np.array([t.level.share for t in pruned])
    if len(set(shares)) < 2:
        return None
    each, fixed = np.polyfit(shares, [t.latency_ms for t in pruned], 1)
    return float(each), float(fixed)


def aimed_at(latency_ms: float, measured: Sequence[Trial]) -> Level | None:
    """The pruning that should just reach a latency, from how fast the others were for what their layers' times promised.

    A network's time is that of what is not pruned, plus a share of the layers' times; both are fitted to what was measured.

    Args:
        latency_ms: to be reached.
        measured: trials with their latency.

    Returns:
        None where fewer than two levels of pruning were measured, no pruning reaches it, or one of them is as good already.
    """
    pruned = time_trials(measured)
    if (line := fitted(pruned)) is None:
        return None
    each, fixed = line
    share = (latency_ms * _AIM_BELOW - fixed) / each if each > 0 else 0.0
    near = any(_AIM_BELOW**2 * latency_ms <= t.latency_ms <= latency_ms for t in pruned)
    if near or not 0 < share < 1:
        return None
    level = Level(round(1 / share, 2))
    return level if level.speedup > 1 and level not in (t.level for t in pruned) else None


def expected_drop(trial: Trial, trained: Sequence[Trial], seconds: float = 0.0, point: float = 1.0) -> float:
    """What will be lost after ``seconds`` more of training, with room for noise; ``point`` is that of the ``Goal``.

    A drop shrinks by about the same factor whenever training has doubled: by what it was between a trial's last two rounds, else by what is
    usual. What was not trained is expected between trained trials, by severity, on a log scale: the last channels cost the most. Milder
    than all of those lies the network itself, which loses next to nothing.
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
    """How many times as fast layers should become to lose no more than the goal allows, where no trained trial is expected to stay within.

    It lies between the network itself and the trial that is expected to lose least, on the line of ``expected_drop``.

    Args:
        trained: trials with their drop.
        seconds: of training to come.
        goal: the limits.

    Returns:
        0 where one stays within the limits, or none lies between.
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
    """How much a trial deserves more time: doublings of speed, less what it lacks in accuracy and in reaching the goal.

    Args:
        trial: with its latency measured.
        drop: that is expected in the end.
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
    """The middles of ``count`` equal parts, from fast to slow, of the trials that no other beats in speed and in severity.

    Before training the accuracy of a pruned network says little of how well it will recover; so the first rung does not bet on it. Up to
    half of the places are for students.
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
