"""Training with a recipe."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from planish.commands.options import Changes, Layout, TrainMode, at_least, changes_of, source
from planish.errors import BundleError
from planish.invocation import started
from planish.units import ImageSize

if TYPE_CHECKING:
    from torch import nn

    from planish.artifact import Artifact
    from planish.data.sources.dataset import Dataset
    from planish.measurement import Measurement
    from planish.training.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """A trained model: its artifact, its folder, and its metrics on test."""

    artifact: Artifact
    folder: Path
    metrics: dict[str, Measurement]


def train(
    data: str | Path | Dataset,
    *,
    model: str | nn.Module = "resnet20",
    weights: str | Path | None = None,
    out: str | Path = "model",
    recipe: str | Path | Recipe | None = None,
    changes: Changes = (),
    epochs: int | None = None,
    budget: str | float | None = None,
    image_size: ImageSize | None = None,
    train_mode: Annotated[TrainMode, Parameter(name="--train")] = "always",
    task: str | None = None,
    metric: str | None = None,
    layout: Layout | None = None,
    skip_bad: bool = False,
    resume: bool = False,
    track: str | None = None,
    seed: int = 0,
) -> Trained:
    """Train a model with a recipe and evaluate it on test.

    The output folder contains the model, the `recipe.yaml` it was trained with, `augmented.png` with examples of the augmentation, and
    `evaluation.html`, the page of `evaluate` together with the training curves.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        model: Network: resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.
        weights: Initial weights: imagenet, or a .safetensors or .pth file.
        out: Output folder for the model; must not exist unless --resume is given.
        recipe: Training recipe: a name (see `planish recipes`) or a YAML file. The default depends on whether the weights are pretrained.
        changes: Override a value of the recipe: training.epochs=10, norm=group. May be repeated.
        epochs: Number of epochs; the same as --set training.epochs.
        budget: Total wall-clock time; the training schedule is fitted to it.
        image_size: Input size in pixels, or HEIGHTxWIDTH; by default the size of the images, at most 224.
        train_mode: auto first evaluates a model that comes with weights, and trains it only if it is hardly better than chance.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
        metric: Metric to report, and for early stopping; see `planish optimize --help`. By default the task's own.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images instead of stopping.
        resume: Continue from the checkpoint of an interrupted training.
        track: Experiment tracker for numbers and files: mlflow, tensorboard, wandb or trackio; after a colon, where it stores them:
            mlflow:http://localhost:5000, tensorboard:logs. If it fails, the training goes on without it.
        seed: Seed of the split, of initial weights and of training.

    Returns:
        The artifact, its folder, and its metrics on test.

    Raises:
        BundleError: `out` exists, or cannot be resumed with these settings.
        PlanishError: the images, the model or the recipe cannot be used.

    Example:
        $ planish train photos/ --model resnet20 --recipe scratch-small --set epochs=20 --set activation=elu --out model/
    """
    from planish import units
    from planish.evaluation.torch_predictor import TorchPredictor
    from planish.models.storage import save_artifact
    from planish.progress import collecting_notes, note
    from planish.report.pages.evaluation import write_evaluation
    from planish.runs.evaluation import EvaluationSubject, evaluate_split, save_evaluation
    from planish.runs.original import write_training
    from planish.runs.resumable import resumable
    from planish.search.time_estimates import is_kept, training_seconds
    from planish.settings import ModelSettings
    from planish.tracking.tracker import tracking
    from planish.training.original import train_original
    from planish.training.prepare import prepare_job
    from planish.training.recipe import apply_modifications, resolved_recipe, warn_of_fresh_weights

    at_least(1, epochs=epochs)
    folder, begun, read = Path(out), started(), source(data, layout)
    whole = folder.absolute()  # "." has no name
    interrupted = whole.with_name(whole.name + ".checkpoint").exists()  # then an existing model is its own, not evaluated yet
    if folder.exists() and not (resume and interrupted):
        raise BundleError(f"{folder} exists already", "a model is never overwritten", "choose another --out")
    name = model if isinstance(model, str) else type(model).__name__
    changed = [f"training.seed={seed}", *changes_of(changes, epochs=epochs, image_size=image_size)]
    resolved = resolved_recipe(recipe, changed, read, pretrained=weights is not None, task=task, model=model)
    settings = {
        "data": read, "model": name, "weights": str(weights or ""), "recipe": resolved.to_yaml(), "train": train_mode, "budget": budget,
        "task": task, "metric": metric, "skip_bad": skip_bad, "seed": seed,
    }  # fmt: skip
    with ExitStack() as stack:
        notes = stack.enter_context(collecting_notes())
        checkpoint = stack.enter_context(resumable(folder, settings, resume=resume))
        tracked = stack.enter_context(tracking(track, whole.name, settings | {"recipe": recipe, **_numbers(resolved)}))
        chosen = ModelSettings(model, weights, resolved.image_size, task=task, metric=metric)
        job = prepare_job(read, chosen, normalisation=resolved.normalisation, skip_bad=skip_bad, seed=seed)
        warn_of_fresh_weights(recipe, job.pretrained)
        job = replace(job, artifact=apply_modifications(job.artifact, job.task, resolved.techniques()))
        allowed = None if budget is None else units.seconds(budget)
        seconds = None if allowed is None else training_seconds(job, allowed, monotonic() - begun)
        original = train_original(job, resolved.training, mode=train_mode, checkpoint=checkpoint, seconds=seconds)
        artifact = original.artifact
        spec, preprocessing = artifact.input_spec, artifact.preprocessing
        save_artifact(artifact, folder, job.data.assignment)  # before the evaluation, so that a later error cannot lose the model
        evaluated = evaluate_split(TorchPredictor.fastest(artifact.module, preprocessing), job.task, "test", spec, preprocessing)
        (folder / "recipe.yaml").write_text(resolved.to_yaml())
        write_training(original, job.task, folder)
        if allowed is not None and not is_kept(allowed, taken := monotonic() - begun):
            note(f"the training took {taken:.0f} s of a budget of {allowed:.0f} s, {seconds or 0:.0f} s of which were left for its epochs")
        save_evaluation(folder, evaluated, spec, preprocessing, subject=EvaluationSubject(name, str(read), "torch"), notes=notes)
        write_evaluation(folder)
        tracked.result(evaluated.found.metrics, [folder])
    return Trained(artifact, folder, evaluated.found.metrics)


def _numbers(recipe: Recipe) -> dict[str, object]:
    """The hyper-parameters of a training by name, for a tracker."""
    return {f"training.{name}": value for name, value in asdict(recipe.training).items()}
