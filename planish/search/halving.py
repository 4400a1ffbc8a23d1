"""Successive halving: training for fewer and fewer of the levels of compression that were looked at.

K. Jamieson and A. Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016 (arXiv:1502.07943).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from planish.plan import Plan
from planish.runs.runner import extend
from planish.search import rounding
from planish.search.choice import drop_upper_bound
from planish.search.proposals import Level, Trial, expected_drop, interpolated_level, priority, safest_trial, select_spread
from planish.search.screening import Screening, measure, screen_level
from planish.search.state import Search
from planish.search.time_estimates import forward_seconds, session_seconds, ship_seconds

_ORIGINAL = Plan()
_LEAST_BATCHES = 200
_LEAST_SECONDS = 1.0  # of a training
_LEVEL_SHARE = 0.3  # of the time for training, that one more level may take
_MUCH_OF = 0.8  # of a round's time; what evaluating took away is among what is reserved for the end


def halve(search: Search, screening: Screening, reserved: float) -> tuple[Trial, ...]:
    """Spend the time that is left, but for ``reserved`` seconds, on distilling the most promising trials, in rungs: each keeps about
    half and has twice as long for them.

    The first rung is spread over all levels; the second takes those that promise most, also levels between two that were tried. Before the
    last one a level is looked at that should stay within the limit, where none so far is expected to.

    Args:
        search: trains.
        screening: the trials.
        reserved: seconds for the end of the run.

    Returns:
        Trials that were trained, the longest trained first.
    """
    store = search.runner.store
    alive, trained = list(screening.trials), list[Trial]()
    seconds = search.seconds_left - reserved
    widths = store.once("rungs", "searching", lambda: _widths(search, alive, seconds))
    if not widths:
        _stop(search, alive, "not trained: no time was left")
    for rung, width in enumerate(widths):
        if not alive:
            break
        is_last = rung == len(widths) - 1
        if rung == 0 and width == 1:
            kept = [safest_trial(alive, search.knowledge())]
        elif rung == 0 or not trained:
            kept = select_spread(alive, width)
        else:
            to_come = sum(seconds * share / w for share, w in list(zip(_shares(len(widths)), widths, strict=True))[rung:])
            if is_last:
                before = search.seconds_left
                alive += _between(search, screening, trained, to_come)
                seconds -= before - search.seconds_left
            drops = {t: expected_drop(t, trained, to_come, search.goal.point) for t in alive}
            kept = sorted(alive, key=lambda t: priority(t, drops[t], search.goal), reverse=True)[:width]
        if rung > 0 or len(widths) == 1:  # what the first rung passed over may still come in the second, between two that it tried
            _stop(search, [t for t in alive if t not in kept], f"stopped before round {rung + 1} of training: others promised more")
            alive = list(kept)
        each = seconds * _shares(len(widths))[rung] / max(1, len(kept))
        learns = (
            is_last
            and rung > 0
            and bool(kept)
            and store.once("rounding", "searching", partial(rounding.pays, search, kept[0], search.goal.point))
        )
        each *= 1 - rounding.SHARE if learns else 1
        for trial in kept:
            left = search.seconds_left - reserved
            if left < max(0.5 * each, _LEAST_SECONDS):
                alive.remove(trial)
                _stop(search, [trial], f"stopped before round {rung + 1} of training: no time was left")
                continue
            after = _train(search, trial, rung, each if left > _MUCH_OF * each else left)  # less where time was lost
            if after.stopped:
                alive.remove(trial)
                continue
            alive[alive.index(trial)] = after
            trained = [after if t is trial else t for t in trained] + [after] * (trial not in trained)
            if learns and trial is kept[0]:
                most = each / (1 - rounding.SHARE) * rounding.SHARE
                if learned := rounding.learn(search, after, min(most, max(0.5 * most, search.seconds_left - reserved))):
                    trained.append(learned)
    return tuple(sorted(trained, key=lambda t: -len(t.plan.steps)))


def _stop(search: Search, trials: Sequence[Trial], why: str) -> None:
    for trial in trials:
        search.show_trial(replace(trial, stopped=why))


def _train(search: Search, trial: Trial, rung: int, seconds: float) -> Trial:
    """The trial after one more round of training, or stopped where that fails."""
    runner = search.runner
    recovery = replace(search.recovery, teachers=search.teachers, max_seconds=float(math.ceil(seconds)))
    search.journal.planned[recovery.name] += seconds
    plan = extend(trial.plan, recovery)
    drop = partial(runner.drop, plan, "torch", (_ORIGINAL, "torch"), "validation")
    if why := runner.store.attempt(f"rung {rung}:{plan.key}", "searching", drop):
        return search.show_trial(replace(trial, stopped=why))
    lost = drop()
    how = runner.artifact(plan).lineage.steps[-1].structure
    spent = max(0.01, how["seconds"])
    total = spent + (trial.history[-1][0] if trial.history else 0.0)
    runner.release()
    return search.show_trial(
        replace(
            trial,
            plan=plan,
            drop=lost,
            seconds_an_epoch=spent / max(how["epochs"], 0.01),
            history=(*trial.history, (total, drop_upper_bound(lost))),
        )
    )


def _between(search: Search, screening: Screening, trained: Sequence[Trial], seconds: float) -> list[Trial]:
    """A level that should stay within the limit, looked at, in a list; an empty one where it is not needed, does not pay, or would take
    much of the time that is left.
    """
    speedup = search.runner.store.once("between", "searching", lambda: interpolated_level(trained, seconds, search.goal))
    if session_seconds(search, 3) + ship_seconds(search) > _LEVEL_SHARE * seconds:
        return []
    if not speedup or not (found := screen_level(search, screening.pruning, Level(speedup))):
        return []
    return [t for t in measure(search, "last look", found) if not t.stopped]


def _guess_epoch_seconds(search: Search, trial: Trial) -> float:
    """Each teacher forward, student forward and backward: about 1 + 3 times its share of the teacher's forward time."""
    return trial.seconds_an_epoch or forward_seconds(search, "train") * (1.2 * max(1, len(search.teachers)) + 3 / trial.gain)


def _widths(search: Search, trials: Sequence[Trial], seconds: float) -> list[int]:
    """How many trials each rung trains: as many as can have an epoch each in the first, or 200 batches where epochs are long."""
    if not trials or seconds <= 0:
        return []
    batches = len(search.runner.task.split("train")) / search.recovery.batch_size
    epoch = max(_guess_epoch_seconds(search, t) for t in trials) * min(1.0, _LEAST_BATCHES / batches)
    for widths in ([5, 3, 2, 1], [4, 2, 1], [3, 2, 1], [2, 1], [1, 1]):
        if widths[0] <= len(trials) and seconds * _shares(len(widths))[0] / widths[0] >= epoch:
            return widths
    return [1]


def _shares(rungs: int) -> list[float]:
    """Of the time, for each rung: the first have to tell trials apart, the last one trains what ships."""
    return [2**rung / (2**rungs - 1) for rung in range(rungs)] if rungs < 4 else [0.1, 0.2, 0.25, 0.45]
