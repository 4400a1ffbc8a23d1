"""The search for a network that cannot be trained: an external ONNX file."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from planish.compression import Int8, Resolution, Simplify
from planish.errors import ModelError
from planish.measurement import in_words
from planish.plan import Plan
from planish.progress import note
from planish.search.state import DeployedCandidate, Search
from planish.search.time_estimates import deploy_seconds, seconds_to_come
from planish.search.trials.proposals import Level, Trial
from planish.search.trials.screening import measure
from planish.task import metric_of
from planish.training.original import better_than_guessing

_ORIGINAL = Plan()
_SCALES = (0.75, 0.5)
_ROUNDING_POINTS = 0.2  # INT8 drop above which more careful rounding methods are tried
_SLACK = 0.25  # extra time for layers that stay in float, relative to the time of the INT8 layers


def check_trained_on_classes(search: Search) -> None:
    """Check that the file was trained on these classes, in the assumed order and with the assumed normalisation.

    Raises:
        ModelError: its accuracy is hardly better than guessing.
    """
    runtime = "onnxruntime" if search.runner.original.module is None else "torch"
    task, outputs = search.runner.task, search.runner.outputs(_ORIGINAL, runtime, "validation")
    reached, is_trained = better_than_guessing(task, outputs, task.split("validation").targets)
    metric = metric_of(task)
    if not is_trained:
        raise ModelError(
            f"the file has {metric.text(reached)} {in_words(metric.name)} on validation, which is hardly better than guessing",
            "it must be trained on these classes, in the order of its outputs (of their names, if it has none), with this preprocessing",
            "give its --mean, --std and --resize, or name the classes' folders in its order",
        )
    note(f"the file as given has {metric.text(reached)} {in_words(metric.name)} on validation")


def without_training(search: Search) -> tuple[Trial, ...]:
    """Try graph simplification, smaller inputs, and, if INT8 costs accuracy, more careful rounding.

    Return the trials that are faster than the uncompressed network as it is deployed, have a smaller drop, or, if the goal limits the size,
    are smaller.
    """
    note(
        "pruning, factorizing, distillation and quantization-aware training are left out: they change or train weights in a PyTorch "
        "network, and this file is not one; give the network itself to have them tried"
    )
    runner, variant, reference = search.runner, search.deployment, DeployedCandidate(_ORIGINAL, search.fp32[0])
    levels = [(Level(), Plan(Simplify())), *((Level(resolution=scale), Plan(Resolution(scale=scale))) for scale in _SCALES)]
    rounding = [c.measurements["drop_validation"].value for name, c in search.journal.candidates.items() if name.startswith("int8@")]
    if rounding and min(rounding) > _ROUNDING_POINTS * search.goal.point:
        bits = Int8.for_device().weight_bits
        careful = Int8(method="mse", weight_bits=bits, equalise=True)
        mixed = Int8(weight_bits=bits, max_slowdown=_SLACK)
        levels += [(Level(), Plan(careful)), (Level(), Plan(mixed))]
    if variant.precision == "fp32":
        levels.append((Level(), Plan(Int8.for_device())))  # it may still meet a size limit
    trials: list[Trial] = []
    for level, plan in levels:
        if search.seconds_left < deploy_seconds(search) + seconds_to_come(search, len(trials) + 1):
            note(f"the budget leaves no time to try {plan}, and what comes after it")
            break
        trial, shipped = Trial(level, plan), DeployedCandidate(plan, variant)
        drop = partial(runner.drop, shipped.plan, variant.runtime, (reference.plan, reference.runtime), "validation")
        if why := runner.store.attempt(f"look:{shipped.plan.key}", "searching", drop):
            note(f"{trial.name} does not apply: {why}")
            continue
        lost = drop()
        runner.release()
        trials.append(search.show_trial(replace(trial, history=((0.0, lost),))))
    if trials:
        trials = measure(search, "first look", trials)
    kept = search.journal.candidates[str(variant)].measurements

    def has_a_use(trial: Trial) -> bool:
        more_accurate = trial.drop is not None and trial.drop.value < kept["drop_validation"].value
        smaller = trial.measurements["size_bytes"].value < kept["size_bytes"].value
        return not trial.stopped or more_accurate or (smaller and search.goal.max_size_bytes is not None)

    return tuple(trial for trial in trials if has_a_use(trial))
