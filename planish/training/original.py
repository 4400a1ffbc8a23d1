"""The model that everything is compared with: evaluated if it is trained already, trained if not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.artifact import Artifact
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.progress import note
from planish.settings import OriginalSettings
from planish.task import metric_of
from planish.training.fit import Epoch, FitRun, fit
from planish.training.prepare import Job
from planish.training.recipe import default_recipe, recipe_for
from planish.training.settings import FitSettings, MixedPrecision

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.task import Task

TrainMode = Literal["auto", "always", "never"]
_ABOVE_GUESSING = 0.25  # of the way from guessing to perfect that a network must have gone to count as trained


@dataclass(frozen=True)
class Original:
    """The original, ready.

    Args:
        artifact: format torch, trained.
        history: one entry an epoch; empty if it was trained already.
        settings: of the training; None if there was none.
    """

    artifact: Artifact
    history: tuple[Epoch, ...] = ()
    settings: FitSettings | None = None


def original_settings(job: Job, original: OriginalSettings, *, seed: int, mixed_precision: MixedPrecision = "auto") -> FitSettings:
    """How the original is trained: by defaults that fit a fresh or a pretrained network, and what was asked for."""
    per_class = len(job.task.split("train").targets) / len(job.task.class_names)
    of_task = recipe_for(job.task.recipe, job.artifact.lineage.source.name)
    settings = default_recipe(job.pretrained, per_class, of_task).training
    settings = replace(settings, seed=seed, augmentation=original.augmentation, mixed_precision=mixed_precision)
    return settings if original.epochs is None else replace(settings, epochs=original.epochs)


def train_original(
    job: Job, settings: FitSettings, *, mode: TrainMode = "auto", checkpoint: Path | None = None, seconds: float | None = None
) -> Original:
    """Train the job's model unless it was already trained on these classes.

    Args:
        job: images and model.
        settings: of the training.
        mode: ``auto`` evaluates a model that came with weights and a fitting classifier, and trains it only if it is hardly better than
            guessing; ``always`` trains; ``never`` takes it as it is.
        checkpoint: where training saves itself and goes on from.
        seconds: training ends within them, its schedule planned accordingly.

    Raises:
        TrainingError: the loss became NaN.
    """
    if mode == "never" or (mode == "auto" and job.trained_on_classes and _is_trained(job)):
        return Original(job.artifact)
    fitted = fit(
        job.artifact.module,
        job.task,
        job.artifact.input_spec,
        job.artifact.preprocessing,
        settings,
        run=FitRun(checkpoint, seconds),
    )
    return Original(replace(job.artifact, module=fitted.module), fitted.history, settings)


def _is_trained(job: Job) -> bool:
    predictor = TorchPredictor.fastest(job.artifact.module, job.artifact.preprocessing)
    found = evaluate(predictor, job.task, "validation", job.artifact.input_spec, job.artifact.preprocessing)
    reached, trained = better_than_guessing(job.task, found.outputs, found.targets)
    words = "it is trained already and is not trained again" if trained else "that is hardly better than guessing, so it is trained"
    note(f"the model as given reaches {metric_of(job.task).text(reached)} on validation: {words}")
    return trained


def better_than_guessing(task: Task, outputs: Outputs, targets: Any) -> tuple[float, bool]:
    """The mean score of a network, and whether that is well above what guessing reaches."""
    guessing, best = task.guessing(targets), metric_of(task).best
    reached = float(task.scores(outputs, targets).mean())
    needed = guessing + _ABOVE_GUESSING * (best - guessing)
    return reached, reached > needed if best > guessing else reached < needed
