"""The precision in which all trainings of one job compute: decided once, kept in the job's store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from accelerate import Accelerator

from planish.artifact import Artifact
from planish.errors import PlanishError
from planish.progress import note
from planish.runs.store import Store
from planish.training.precision import use_bf16
from planish.training.recipe import Recipe
from planish.training.settings import MixedPrecision

_NAMES: dict[MixedPrecision, str] = {"off": "float32", "bf16": "bfloat16"}


def decided_precision(store: Store, wanted: MixedPrecision, network: Callable[[], Artifact]) -> Literal["off", "bf16"]:
    """What ``FitSettings.mixed_precision`` becomes for every training of a job, resumed ones as well.

    ``auto`` is a matter of timing, and timings vary: decided by each training for itself, arms of one comparison might differ in precision.

    Args:
        store: of the job, which remembers the decision.
        wanted: by the recipe; ``off`` and ``bf16`` are decided already.
        network: gives the network that is timed, before training: that of the reference. Where it cannot be made, float32 is used.
    """
    if wanted != "auto":
        return wanted

    def decide() -> str:
        try:
            artifact = network()
        except PlanishError:
            return "off"
        if artifact.module is None:
            return "off"
        return "bf16" if use_bf16(wanted, Accelerator().device, artifact.module, artifact.input_spec) else "off"

    decided: Literal["off", "bf16"] = store.once("training precision", "setup", decide)
    note(f"all trainings run in {precision_name(decided)}, as decided once for all of them")
    return decided


def precision_name(decided: MixedPrecision) -> str:
    """``float32``, ``bfloat16``."""
    return _NAMES.get(decided, decided)


def in_precision(recipe: Recipe, decided: MixedPrecision) -> Recipe:
    """The recipe with what was decided in the place of ``auto``; one that names a precision keeps it."""
    training = recipe.training
    return replace(recipe, training=replace(training, mixed_precision=decided)) if training.mixed_precision == "auto" else recipe
