"""The floating-point precision of all trainings of a job, decided once and saved in the job's store."""

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
    """Return the value of ``FitSettings.mixed_precision`` for every training of a job, including resumed ones.

    ``auto`` is decided by timing, which varies: if each training decided for itself, arms of a comparison could differ in precision.

    Args:
        store: store of the job, which saves the decision.
        wanted: value in the recipe; ``off`` and ``bf16`` are returned unchanged.
        network: builds the untrained reference network that is timed. If it cannot be built, float32 is used.
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
    """Return the name of a precision: ``float32`` or ``bfloat16``."""
    return _NAMES.get(decided, decided)


def in_precision(recipe: Recipe, decided: MixedPrecision) -> Recipe:
    """Return the recipe with ``auto`` replaced by the decided precision; any other value is kept."""
    training = recipe.training
    return replace(recipe, training=replace(training, mixed_precision=decided)) if training.mixed_precision == "auto" else recipe
