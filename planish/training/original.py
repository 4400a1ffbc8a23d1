"""The original model, with which everything is compared: evaluated if it is already trained, trained otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from planish.artifact import Artifact
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.measurement import in_words
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
_ABOVE_GUESSING = 0.25  # share of the distance from guessing to a perfect score above which a network counts as trained


@dataclass(frozen=True)
class Original:
    """The trained original model.

    Args:
        artifact: the model, format torch.
        history: one entry per epoch; empty if the model was not trained here.
        settings: settings of the training; None if the model was not trained here.
    """

    artifact: Artifact
    history: tuple[Epoch, ...] = ()
    settings: FitSettings | None = None


def original_settings(job: Job, original: OriginalSettings, *, seed: int, mixed_precision: MixedPrecision = "auto") -> FitSettings:
    """Training settings of the original: defaults for new or pretrained weights, with the values that ``original`` specifies."""
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
        settings: settings of the training.
        mode: ``auto`` evaluates a model that has weights and a classifier of the right size, and trains it only if it is hardly better than
            guessing; models without these are trained. ``always`` trains, ``never`` does not.
        checkpoint: checkpoint file, see ``FitRun``.
        seconds: time limit, to which the schedule is shortened.

    Raises:
        TrainingError: training failed, see ``fit``.
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
    metric = metric_of(job.task)
    note(f"the model as given reaches {metric.text(reached)} {in_words(metric.name)} on validation: {words}")
    return trained


def better_than_guessing(task: Task, outputs: Outputs, targets: Any) -> tuple[float, bool]:
    """The mean score of a network, and whether it is clearly better than the score of guessing."""
    guessing, best = task.guessing(targets), metric_of(task).best
    reached = float(task.scores(outputs, targets).mean())
    needed = guessing + _ABOVE_GUESSING * (best - guessing)
    return reached, reached > needed if best > guessing else reached < needed
