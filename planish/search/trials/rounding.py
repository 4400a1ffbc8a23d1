"""Quantization-aware training as the last step of a trial, if INT8 costs accuracy."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from planish.compression import Int8, QuantizeAware
from planish.errors import PlanishError
from planish.plan import Plan
from planish.progress import note
from planish.runs.runner import extend
from planish.search.choice import format_drop
from planish.search.state import DeployedCandidate, Search
from planish.search.time_estimates import deploy_seconds
from planish.search.trials.proposals import Trial

_WORTH_POINTS = 0.2  # INT8 drop above which quantization-aware training is used
SHARE = 0.3  # its share of the last round's time


def has_time(search: Search, seconds: float) -> bool:
    """Whether candidates are deployed in INT8, and so many seconds suffice to export one, and to train it for longer than that takes."""
    return search.deployment.precision == "int8" and seconds > 3 * deploy_seconds(search)


def pays(search: Search, trial: Trial, point: float = 1.0) -> bool:
    """Whether the drop of the trial's INT8 file against its float network on validation is large enough for quantization-aware training.

    Args:
        search: state of the search.
        trial: a trained trial.
        point: see ``Goal``.
    """
    shipped = DeployedCandidate(trial.plan, search.deployment)
    try:
        lost = search.runner.drop(shipped.plan, shipped.runtime, (trial.plan, "torch"), "validation")
    except PlanishError:
        return False
    much = lost.value > _WORTH_POINTS * point
    cost = format_drop(lost.value, lost.unit)
    note(f"INT8 costs {cost} on validation ({trial.name})" + ", so quantization-aware training follows" * much)
    return much


def learn(search: Search, trial: Trial, seconds: float) -> Trial | None:
    """Return the trial after quantization-aware training; None if the network does not support it.

    Args:
        search: state of the search.
        trial: a trained trial.
        seconds: maximum training time.
    """
    runner, recovery, most = search.runner, search.recovery, float(math.ceil(seconds))
    step = QuantizeAware(
        weight_bits=Int8.for_this_machine().weight_bits,
        epochs=recovery.epochs,
        batch_size=recovery.batch_size,
        max_seconds=most,
        augmentation=recovery.augmentation,
        flip=recovery.flip,
        mixed_precision=recovery.mixed_precision,
    )
    plan = extend(trial.plan, step)
    shipped = DeployedCandidate(plan, search.deployment)
    drop = partial(runner.drop, shipped.plan, shipped.runtime, (Plan(), "torch"), "validation")
    if why := runner.store.attempt(f"rounding:{shipped.plan.key}", "searching", drop):
        note(f"quantization-aware training is skipped: {why}")
        return None
    lost = drop()
    steps = trial.history[-1][0] + seconds / trial.step_seconds
    return search.show_trial(replace(trial, plan=plan, history=(*trial.history, (steps, lost))))
