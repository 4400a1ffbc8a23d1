"""Successive halving: in each rung, fewer of the screened trials are trained, for longer.

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
from planish.search.time_estimates import deploy_seconds, forward_seconds, session_seconds

_ORIGINAL = Plan()
_LEAST_BATCHES = 200
_LEAST_SECONDS = 1.0  # minimum time of a training
_LEVEL_SHARE = 0.3  # maximum share of the training time for screening one more level
# If at least this share of a round's time is left, the round gets all of it: the end of the run reserves time for evaluation.
_MUCH_OF = 0.8


def halve(search: Search, screening: Screening, reserved: float) -> tuple[Trial, ...]:
    """Distill the most promising trials in rungs, for the time that is left minus ``reserved`` seconds.

    Each rung keeps about half of the trials and trains them about twice as long. The first rung is spread over all levels; the later ones
    train the trials with the highest priority, which may include untrained levels between trained ones. If no trial is expected to meet the
    limit on the drop, one more level that should meet it is screened before the last rung.

    Args:
        search: state of the search.
        screening: the screened trials.
        reserved: seconds reserved for the end of the run.

    Returns:
        Trained trials, those with the most rounds of training first.
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
        if rung > 0 or len(widths) == 1:  # trials that the first rung skipped may still be trained in the second
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
            after = _train(search, trial, rung, each if left > _MUCH_OF * each else left)  # shorter if the run is behind schedule
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
    """Return the trial after one more round of training, or stopped if the training fails."""
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
    """Screen a level that should stay within the limit on the drop.

    Returns a list with the trial; an empty list if the level is not needed, is not faster, or would take too much of the time left.
    """
    speedup = search.runner.store.once("between", "searching", lambda: interpolated_level(trained, seconds, search.goal))
    if session_seconds(search, 3) + deploy_seconds(search) > _LEVEL_SHARE * seconds:
        return []
    if not speedup or not (found := screen_level(search, screening.pruning, Level(speedup))):
        return []
    return [t for t in measure(search, "last look", found) if not t.stopped]


def _guess_epoch_seconds(search: Search, trial: Trial) -> float:
    """Estimate the seconds of an epoch: a forward pass of each teacher, and forward and backward of the student.

    Relative to the teacher's forward pass that is about 1.2 per teacher plus 3 divided by the student's speed-up.
    """
    return trial.seconds_an_epoch or forward_seconds(search, "train") * (1.2 * max(1, len(search.teachers)) + 3 / trial.gain)


def _widths(search: Search, trials: Sequence[Trial], seconds: float) -> list[int]:
    """Return the number of trials of each rung: as many as can be trained for an epoch (or 200 batches, if fewer) in the first rung."""
    if not trials or seconds <= 0:
        return []
    batches = len(search.runner.task.split("train")) / search.recovery.batch_size
    epoch = max(_guess_epoch_seconds(search, t) for t in trials) * min(1.0, _LEAST_BATCHES / batches)
    for widths in ([5, 3, 2, 1], [4, 2, 1], [3, 2, 1], [2, 1], [1, 1]):
        if widths[0] <= len(trials) and seconds * _shares(len(widths))[0] / widths[0] >= epoch:
            return widths
    return [1]


def _shares(rungs: int) -> list[float]:
    """Return the share of the training time of each rung: the last rung, which trains the deployed candidate, gets the most."""
    return [2**rung / (2**rungs - 1) for rung in range(rungs)] if rungs < 4 else [0.1, 0.2, 0.25, 0.45]
