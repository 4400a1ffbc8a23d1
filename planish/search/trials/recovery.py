"""Training of the screened trials: again and again the one that is expected to improve most on the best candidate so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from planish.plan import Plan
from planish.progress import logged_as, note
from planish.runs.runner import extend
from planish.runs.workers import share_steps, worker_count
from planish.search.choice import format_drop
from planish.search.state import Search
from planish.search.time_estimates import deploy_seconds, forward_seconds, session_seconds, steps_per_epoch
from planish.search.trials import rounding
from planish.search.trials.expected_improvement import best_choice
from planish.search.trials.forecast import Forecast
from planish.search.trials.proposals import Level, Trial, priority, value_of
from planish.search.trials.screening import Screening, measure, screen_level

_ORIGINAL = Plan()
_LEAST_BATCHES = 200  # of a training that is not the last, or an epoch if that is shorter
_LEAST_SECONDS = 1.0
_DURATIONS = (0.12, 0.25, 0.4, 0.6, 1.0)  # of a training, as shares of the time left
_FIRST_SHARE = 0.25  # maximum share of the time for recovery that a first training gets: what it loses says more than a prediction
_CONTINUED_SHARE = 0.5  # minimum steps of a training that is continued, as a share of those before: a short one loses more than it brings
_MUCH_OF = 0.8  # if a training gets this share of the time left, it gets all of it
_MORE_LEVELS = 3  # maximum number of levels that are screened between trainings
_LEVEL_SHARE = 0.15  # maximum share of the time left for screening one
_CLEARLY = 1.2  # by which factor its expected improvement must be larger
_LITTLE = 0.02  # expected improvement below which the time left goes to the best trial
_MILD_POINTS = 5.0  # maximum drop of a network that has lost little
_UNTRAINED = 2  # maximum number of trials that are handed on without training


def recover(search: Search, screening: Screening, reserved: float) -> tuple[Trial, ...]:
    """Distill the most promising trials, for the time that is left minus ``reserved`` seconds.

    Before each training, the drop of every trial after more training is predicted, with its uncertainty; the trial with the largest
    expected improvement is trained, for a part of the time or all of it (``expected_improvement.best_choice``). What probably meets the
    limit is thus trained first, as long as it needs, and bolder trials in the time that is left. The first training of a trial
    gets at most a quarter of all this time, since predictions may be far off. Levels that were not screened are screened
    if they promise clearly more. A share of the last training is for quantization-aware training, if INT8 costs accuracy.

    Args:
        search: state of the search.
        screening: the screened trials.
        reserved: seconds reserved for the end of the run.

    Returns:
        Trained trials, and untrained ones that are within the limit as they are.
    """
    store, screened, trained = search.runner.store, list(screening.trials), list[Trial]()
    untrained = _within_untrained(search, screened)
    refused = list(screening.refused)
    first = store.once("longest first training", "searching", lambda: _FIRST_SHARE * (search.seconds_left - reserved))
    number = more = 0
    while True:
        forecast = Forecast(search, screened, trained, refused)
        alive = [trial for trial in screened if not trial.stopped]
        step = store.once(f"training {number}", "searching", partial(_next, forecast, alive, reserved, first, more < _MORE_LEVELS))
        if step is None:
            break
        number += 1
        if "level" in step:
            more += 1
            level = Level(**step["level"])
            if found := screen_level(search, screening.pruning, level):
                screened += measure(search, f"look {number}", found)
            else:
                refused.append(level)
            continue
        trial = next(t for t in alive if t.name == step["trial"])
        seconds = step["seconds"]
        learns = step["is_last"] and store.once("rounding", "searching", partial(rounding.pays, search, trial, rounding.SHARE * seconds))
        trained_for = seconds * (1 - rounding.SHARE if learns else 1)
        for each in (*_trained_beside(forecast, alive, trial, trained_for, number), trial):
            with logged_as(each.name):
                after = _train(search, each, number, trained_for)
            screened[screened.index(each)] = after
            if not after.stopped:
                trained = [t for t in trained if t is not each] + [after]
        if after.stopped:
            continue
        if learns and (learned := rounding.learn(search, after, seconds * rounding.SHARE)):
            trained.append(learned)
        if step["is_last"]:
            break
    for trial in screened:
        if not trial.history and not trial.stopped and trial not in untrained:
            search.show_trial(replace(trial, stopped="not trained: others promised more"))
    return (*trained, *untrained)


def _next(forecast: Forecast, alive: Sequence[Trial], reserved: float, first: float, may_screen: bool) -> dict[str, Any] | None:
    """Return the next training or the next level to screen; None if no time is left or there is nothing to train.

    Args:
        forecast: what the search knows.
        alive: the trials that can be trained.
        reserved: seconds reserved for the end of the run.
        first: maximum seconds of the first training of a trial.
        may_screen: whether another level may be screened.
    """
    search = forecast.search
    left = search.seconds_left - reserved
    if left < _LEAST_SECONDS or not alive:
        return None
    prospects = [forecast.prospect(trial) for trial in alive]
    shortest = min(steps_per_epoch(search), _LEAST_BATCHES)
    overhead = forward_seconds(search, "validation")
    durations = [share * left for share in _DURATIONS]
    within = forecast.within(prospects, durations)
    least = [max(shortest, _CONTINUED_SHARE * prospect.steps) * prospect.step_seconds for prospect in prospects]
    long_enough = np.array([[each >= seconds for each in durations] for seconds in least])
    long_enough[:, -1] |= [not trial.history for trial in alive]
    within[:, ~long_enough] = 0
    rest = forecast.within(prospects, [max(0.0, left - seconds - overhead) for seconds in durations])
    best, of_trial = forecast.best
    choice = best_choice([p.value for p in prospects], within, rest, best)
    if may_screen and session_seconds(search, 3) + deploy_seconds(search) < _LEVEL_SHARE * left:
        proposed = forecast.promising_levels((1 - _LEVEL_SHARE) * left, 1)
        if proposed and proposed[0][1] > max(_CLEARLY * choice.improvement, _LITTLE):
            return {"level": asdict(proposed[0][0])}
    trial, seconds = alive[choice.trial], durations[choice.duration]
    if choice.improvement < _LITTLE:  # probably nothing better is found: make the best one better
        trainable = [t for t, enough in zip(alive, long_enough[:, -1], strict=True) if enough]
        if not trainable:
            return None
        trial, seconds = of_trial if of_trial in trainable else max(trainable, key=lambda t: _hope(forecast, t, left)), left
    if not trial.history and first > least[alive.index(trial)]:
        seconds = min(seconds, first)
    is_last = seconds > _MUCH_OF * left
    seconds = left if is_last else seconds
    drop = forecast.drop_after(trial, seconds) * search.goal.point
    note(
        f"training {trial.name} for {seconds:.0f} s: a drop of {format_drop(drop, trial.last_drop.unit)} "
        f"is expected at {trial.measurements['latency_ratio'].value:.1f}x"
    )
    return {"trial": trial.name, "seconds": seconds, "is_last": is_last}


def _trained_beside(forecast: Forecast, alive: Sequence[Trial], chosen: Trial, seconds: float, number: int) -> list[Trial]:
    """Have the workers train the chosen trial and, if there are several, those that promise most after it; return these others."""
    search, others = forecast.search, [trial for trial in alive if trial is not chosen]
    runner = search.runner

    def names() -> list[str]:
        long_enough = [t for t in others if seconds >= _CONTINUED_SHARE * (t.history[-1][0] if t.history else 0.0) * t.step_seconds]
        prospects = [forecast.prospect(trial) for trial in long_enough]
        if not prospects or worker_count() == 1:
            return []
        gains = np.maximum(0.0, np.array([prospect.value for prospect in prospects]) - forecast.best[0])
        promised = forecast.within(prospects, [seconds]).mean(0)[:, 0] * gains
        best_first = sorted(zip(promised, long_enough, strict=True), key=lambda pair: (-pair[0], -_hope(forecast, pair[1], seconds)))
        return [trial.name for _, trial in best_first[: worker_count() - 1]]

    beside = runner.store.once(f"beside training {number}", "searching", names)
    training = {
        trial: partial(runner.artifact, _trained_plan(search, trial, seconds))
        for trial in (chosen, *others)
        if trial is chosen or trial.name in beside
    }
    share_steps(runner.store, runner.folder.parent, training.values())
    return [trial for trial, train in training.items() if trial is not chosen and runner.store.first_unfinished(train) is None]


def _hope(forecast: Forecast, trial: Trial, seconds: float) -> float:
    return priority(trial, forecast.drop_after(trial, seconds) * forecast.search.goal.point, forecast.search.goal)


def _within_untrained(search: Search, screened: Sequence[Trial]) -> list[Trial]:
    """Return the fastest trials that are within the limit without training, judging by validation."""
    limit = search.goal.max_drop_points
    found = [t for t in screened if not t.stopped and t.last_drop.value <= limit]
    return sorted(found, key=lambda t: -value_of(t, search.goal))[:_UNTRAINED]


def _trained_plan(search: Search, trial: Trial, seconds: float) -> Plan:
    """Return the plan of a trial with one more round of training."""
    rate = search.mild_rate if trial.last_drop.value <= _MILD_POINTS * search.goal.point else search.recovery.learning_rate
    recovery = replace(search.recovery, teachers=search.teachers, max_seconds=float(math.ceil(seconds)), learning_rate=rate)
    return extend(trial.plan, recovery)


def _train(search: Search, trial: Trial, number: int, seconds: float) -> Trial:
    """Return the trial after one more round of training, or stopped if the training fails."""
    runner, plan = search.runner, _trained_plan(search, trial, seconds)
    search.journal.planned[search.recovery.name] += seconds
    drop = partial(runner.drop, plan, "torch", (_ORIGINAL, "torch"), "validation")
    if why := runner.store.attempt(f"round {number}:{plan.key}", "searching", drop):
        return search.show_trial(replace(trial, stopped=why))
    lost = drop()
    how = runner.artifact(plan).lineage.steps[-1].structure
    steps = max(1.0, how["epochs"] * steps_per_epoch(search))
    before = trial.history[-1][0] if trial.history else 0.0
    runner.release()
    spent = max(1e-5, how["step_seconds"])
    if trial.history and lost.value > trial.last_drop.value:
        note(f"{trial.name} lost {format_drop(lost.value, lost.unit)} after more training: it stays as it was")
        plan, lost = trial.plan, trial.last_drop
    return search.show_trial(replace(trial, plan=plan, step_seconds=spent, history=(*trial.history, (before + steps, lost))))
