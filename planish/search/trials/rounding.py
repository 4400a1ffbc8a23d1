"""Quantization-aware training as the last step of a trial, if INT8 costs accuracy."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from planish.compression import Int8, QuantizeAware
from planish.errors import DeviceError, PlanishError
from planish.plan import Plan
from planish.progress import note
from planish.runs.runner import extend
from planish.search.choice import format_drop, standard_error
from planish.search.state import DeployedCandidate, Search
from planish.search.time_estimates import deploy_seconds
from planish.search.trials.proposals import Trial

_WORTH_POINTS = 0.2  # INT8 drop, less its standard error, above which quantization-aware training is used
_LEAST_EXPORTS = 3  # minimum of its time, relative to the time to export a network and evaluate it
SHARE = 0.3  # its share of the last round's time


def pays(search: Search, trial: Trial, seconds: float) -> bool:
    """Whether INT8 costs accuracy on validation by more than a standard error, so that quantization-aware training is worth its time.

    An untrained trial is judged by the original: pruned networks lose about as much in INT8.

    Args:
        search: state of the search.
        trial: the trial that is trained next.
        seconds: time for quantization-aware training.
    """
    if search.deployment.precision != "int8" or seconds < _LEAST_EXPORTS * deploy_seconds(search):
        return False
    network = trial.plan if trial.history else Plan()
    shipped = DeployedCandidate(network, search.deployment)
    try:
        lost = search.runner.drop(shipped.plan, shipped.runtime, (network, "torch"), "validation")
    except DeviceError:
        raise
    except PlanishError:
        return False
    much = lost.value - standard_error(lost) > _WORTH_POINTS * search.goal.point
    of = trial.name if trial.history else "the original"
    note(f"INT8 costs {format_drop(lost.value, lost.unit)} on validation ({of})" + ", so quantization-aware training follows" * much)
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
        weight_bits=Int8.for_device().weight_bits,
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
