"""Successive halving: a cheap look at many levels of compression, then training for fewer and fewer of them.

K. Jamieson and A. Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016 (arXiv:1502.07943).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from planish.compression import LatencyPruning
from planish.errors import PlanishError
from planish.plan import Plan
from planish.progress import note
from planish.search import rounding
from planish.search.choose import with_room
from planish.search.proposals import LEVELS, Level, Trial, aimed_at, expected_drop, fitted, further, promise, spread, timed
from planish.search.result import Stage
from planish.search.runner import extend
from planish.search.state import Search, Shipped
from planish.task import SplitName
from planish.training import Distill

_ORIGINAL = Plan()
_LEAST_BATCHES = 200
_BATCH = 32
_LARGE_PIXELS = 64
_RANKS_SECONDS = 150.0  # of looking, from which on there is time to see whether layers should also be split
_RANKS_GAIN_POINTS = 1.0


def glance(search: Search, seconds: float) -> list[Trial]:
    """A cheap look at several levels: cut, what is left fitted, no training; exported, and its latency measured.

    Its accuracy is read on the few calibration images and is shown only: it says little about what training will recover.

    Args:
        search: what is known so far.
        seconds: to spend, about; it decides how many levels are looked at.

    Returns:
        The levels worth training. A level that is not faster than the uncompressed network in the same precision is stopped here.
    """
    runner, cost = search.runner, 1 + ship_seconds(search)
    search.low_rank = seconds > _RANKS_SECONDS and runner.store.once("ranks", "searching", partial(_ranks_pay, search, LEVELS[0]))
    count = runner.store.once("levels", "searching", lambda: max(2, min(len(LEVELS), int(seconds / cost))))
    trials: list[Trial] = []
    for level in (*LEVELS[:count], *_students(search)):
        if trials and search.seconds_left < 3 * cost:
            break
        trials += _look(search, level)
    while (level := further(trials)) and search.seconds_left > 3 * cost and (found := _look(search, level)):
        trials += found
    if not trials:
        return []
    _measure(search, "first look", trials)
    _note_prediction(trials)
    if search.goal.max_latency_ms is not None and (aimed := aimed_at(search.goal.max_latency_ms, trials)) is not None:
        fitting = _look(search, aimed)
        _measure(search, "second look", fitting)
        trials += fitting
    return [t for t in trials if not t.stopped]


def _students(search: Search) -> list[Level]:
    """The architectures that are tried as students, each at the full size and, where images are large, at half of it."""
    spec = search.runner.original.input_spec
    scales = (1.0, 0.5) if min(spec.height, spec.width) >= _LARGE_PIXELS else (1.0,)
    return [Level(student=name, resolution=scale) for name in search.students for scale in scales]


def _ranks_pay(search: Search, level: Level) -> bool:
    """Whether more is left of the network when its layers may be split as well, at the same time of layers and before any training."""
    drops = []
    for low_rank in (False, True):
        plan = level.plans(_pruning(search, low_rank))[0]
        try:
            drops.append(search.runner.drop(plan, "torch", (_ORIGINAL, "torch"), "calibration").value)
        except PlanishError:
            return False
    note(f"layers made {level.speedup:g}x as fast cost {drops[0]:.1f} points before training, with some of them split {drops[1]:.1f}")
    return drops[1] < drops[0] - _RANKS_GAIN_POINTS


def _pruning(search: Search, low_rank: bool) -> LatencyPruning:
    way = search.deployment
    return LatencyPruning(
        speedup=2, runtime=way.runtime, precision=way.precision, threads=search.threads, batch=search.batch, low_rank=low_rank,
        mixed_precision=search.mixed_precision,
    )  # fmt: skip


def _note_prediction(trials: Sequence[Trial]) -> None:
    """Tell how well the sum of the layers' times, corrected by what was measured, predicts the files' latency."""
    pruned = timed(trials)
    if len(pruned) > 2 and (line := fitted(pruned)) is not None:
        off = [abs(line[0] * t.level.share + line[1] - t.latency_ms) / t.latency_ms for t in pruned]
        note(f"latency predicted from timed layers is off by {100 * float(np.median(off)):.0f} % (median of {len(pruned)} files)")


def _look(search: Search, level: Level) -> list[Trial]:
    """The level's network, cut and exported, in a list; an empty one where nothing of it applies."""
    runner, deployment = search.runner, search.deployment
    for plan in level.plans(_pruning(search, search.low_rank)):
        trial = Trial(level, plan)
        try:
            runner.artifact(Shipped(plan, deployment).plan)
            drop = runner.drop(plan, "torch", (_ORIGINAL, "torch"), "calibration")
        except PlanishError as error:
            note(f"{trial.name} does not apply: {error}")
            continue
        trial.measurements["accuracy_drop_calibration"] = replace(drop, name="accuracy_drop_calibration")
        runner.release()
        _show(search, trial)
        return [trial]
    return []


def _measure(search: Search, name: str, trials: Sequence[Trial]) -> None:
    """Time the trials' files side by side, and stop those that are not faster than the uncompressed network in the same precision."""
    deployment = search.deployment
    subjects = {t.name: Shipped(t.plan, deployment) for t in trials}
    uncompressed, baseline = "uncompressed", "baseline"
    subjects |= {uncompressed: Shipped(_ORIGINAL, deployment), baseline: Shipped(_ORIGINAL, search.fp32[0])}
    report = search.latency(name, subjects, baseline, seconds=0.6, launches=3)
    found, floor = report.measurements, report.noise_floor
    for trial in trials:
        trial.measurements |= found[trial.name]
        trial.measurements["size_bytes"] = search.runner.size(subjects[trial.name].plan, deployment.runtime)
        trial.gain = found[uncompressed]["latency_ms"].value / trial.latency_ms
        if trial.gain < 1 + max(floor.value, 3.0) / 100:
            trial.stopped = f"does not pay: {trial.gain:.2f}x as fast as the uncompressed network in the same precision"
        _show(search, trial)


def train(search: Search, trials: Sequence[Trial], seconds: float) -> list[Trial]:
    """Spend ``seconds`` on distilling the most promising trials, in rungs: each keeps about half and has twice as long for them.

    The first rung is spread over all levels; the second takes those that promise most, also levels between two that were tried.

    Returns:
        Trials that were trained, the longest trained first.
    """
    runner = search.runner
    trained: list[Trial] = []
    alive = list(trials)
    widths = runner.store.once("rungs", "searching", lambda: _widths(search, alive, seconds))
    for rung, width in enumerate(widths):
        if not alive:
            break
        if rung == 0 or not trained:
            kept = spread(alive, width)
        else:
            to_come = sum(seconds * share / w for share, w in list(zip(_shares(len(widths)), widths, strict=True))[rung:])
            ranked = sorted(alive, key=lambda t: promise(t, expected_drop(t, trained, to_come), search.goal), reverse=True)
            kept = ranked[:width]
        if rung > 0 or len(widths) == 1:  # what the first rung passed over may still come in the second, between two that it tried
            for trial in alive:
                if trial not in kept:
                    trial.stopped = f"stopped before round {rung + 1} of training: others promised more"
                    _show(search, trial)
            alive = kept
        each = seconds * _shares(len(widths))[rung] / max(1, len(kept))
        is_last = rung == len(widths) - 1
        learns = is_last and rung > 0 and bool(kept) and runner.store.once("rounding", "searching", partial(rounding.pays, search, kept[0]))
        each *= 1 - rounding.SHARE if learns else 1
        for trial in list(kept):
            decision = f"rung {rung}: {trial.name}"
            if runner.store.get(decision) is None and search.seconds_left < each * 0.5:
                alive.remove(trial)
                trial.stopped = f"stopped before round {rung + 1} of training: no time was left"
                continue
            most = runner.store.once(decision, "searching", partial(float, math.ceil(each)))
            recovery = Distill(
                epochs=search.most_epochs, learning_rate=search.learning_rate, max_seconds=most, augmentation=search.augmentation
            )
            plan = extend(trial.plan, recovery)
            try:
                trial.drop = runner.drop(plan, "torch", (_ORIGINAL, "torch"), "validation")
            except PlanishError as error:
                alive.remove(trial)
                trial.stopped = str(error)
                _show(search, trial)
                continue
            done = runner.artifact(plan).lineage.steps[-1].structure["epochs"]
            spent = runner.store.seconds_of(f"artifact:{plan.key}")
            trial.seconds_an_epoch = spent / max(done, 0.01)
            trial.history.append((spent + (trial.history[-1][0] if trial.history else 0.0), with_room(trial.drop)))
            trial.plan = plan
            if trial not in trained:
                trained.append(trial)
            runner.release()
            _show(search, trial)
            if learns and trial is kept[0] and (learned := rounding.learn(search, trial, each / (1 - rounding.SHARE) * rounding.SHARE)):
                trained.append(learned)
                _show(search, learned)
    return sorted(trained, key=lambda t: -len(t.plan.steps))


def ship_seconds(search: Search) -> float:
    """Seconds that exporting a network and running it over validation take, from what they took for the original."""
    steps = search.deployment.steps().steps
    exports = sum(search.runner.store.seconds_of(f"artifact:{Plan(*steps[:count]).key}") for count in range(1, len(steps) + 1))
    return 1 + exports + _forward_seconds(search, "validation")


def _forward_seconds(search: Search, split: SplitName) -> float:
    """Seconds that the original takes over a split: by the fastest of a few batches, as one disturbed moment must not decide the search."""
    runner = search.runner

    def fastest() -> float:
        spec, module = runner.original.input_spec, runner.original.module.eval()
        images = torch.randn(_BATCH, spec.channels, spec.height, spec.width, device=next(module.parameters()).device)
        seconds = []
        with torch.no_grad():
            for _ in range(5):
                begun = time.perf_counter()
                module(images)
                seconds.append(time.perf_counter() - begun)
        return min(seconds) / _BATCH

    return len(runner.task.split(split)) * float(runner.store.once("seconds an image", "searching", fastest))


def _guess_epoch_seconds(search: Search, trial: Trial) -> float:
    """Teacher forward, student forward and backward: about 1 + 3 times its share of the teacher's forward time."""
    return trial.seconds_an_epoch or _forward_seconds(search, "train") * (1.2 + 3 / trial.gain)


def _widths(search: Search, trials: Sequence[Trial], seconds: float) -> list[int]:
    """How many trials each rung trains: as many as can have an epoch each in the first, or 200 batches where epochs are long."""
    if not trials or seconds <= 0:
        return []
    batches = len(search.runner.task.split("train")) / Distill().batch_size
    epoch = max(_guess_epoch_seconds(search, t) for t in trials) * min(1.0, _LEAST_BATCHES / batches)
    for widths in ([5, 3, 2, 1], [4, 2, 1], [3, 2, 1], [2, 1]):
        if widths[0] <= len(trials) and seconds * _shares(len(widths))[0] / widths[0] >= epoch:
            return widths
    return [1]


def _shares(rungs: int) -> list[float]:
    """Of the time, for each rung: the first have to tell trials apart, the last one trains what ships."""
    return [2**rung / (2**rungs - 1) for rung in range(rungs)] if rungs < 4 else [0.1, 0.2, 0.25, 0.45]


def _show(search: Search, trial: Trial) -> None:
    measurements = dict(trial.measurements)
    if trial.drop is not None:
        measurements["accuracy_drop_validation"] = trial.drop
    stage: Stage = "trained" if any(s.name == "distill" for s in trial.plan.steps) else "glanced"
    search.show(trial.name, Shipped(trial.plan, search.deployment), stage, measurements, trial.stopped)
