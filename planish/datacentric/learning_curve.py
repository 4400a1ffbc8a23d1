"""Learning curve: networks trained on increasing numbers of images and evaluated on unseen ones, to estimate the gain of more images."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import require_classes
from planish.data.splits import Indices
from planish.datacentric.folds import TRAINED_SHARE, FoldTrainer, Logits
from planish.errors import DataError, GoalError
from planish.evaluation.metrics.classification import percent
from planish.evaluation.statistics.intervals import over_folds
from planish.evaluation.statistics.power_law import fit_power_law, gain_of_twice
from planish.files.atomic import job_folder, read_result, write_arrays, write_result
from planish.measurement import Measurement
from planish.progress import Stage
from planish.runs.precision import precision_name
from planish.runs.record import RunRecord, run_folder
from planish.runs.workers import share_steps
from planish.settings import ModelSettings, RecipeSettings, RunSettings
from planish.training.batches import batches_per_epoch
from planish.training.recipe import resolved_recipe

_STRICT = ConfigDict(extra="forbid")
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, config=_STRICT)
class Point:
    """Result for one number of training images.

    Args:
        images: number of training images.
        epochs: epochs of each training; more for fewer images, so that the number of steps is the same for all sizes.
        accuracy: accuracy on images not used for training; the interval is that of ``statistics.over_folds``.
    """

    images: int
    epochs: int
    accuracy: Measurement


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LearningCurve(RunRecord):
    """Accuracy over the number of training images; ``learning_curve.json``.

    Args:
        recipe: recipe of all networks, as YAML; its epochs are those with all images.
        folds: number of folds, held out in turn.
        repeats: number of repetitions, with different folds and seeds.
        points: results, from few images to all.
        power_law: ``a``, ``b`` and ``c`` of ``error = a + b * images ** -c``, with the error from 0 to 1.
        gain: expected gain in accuracy from twice the images, in points.
    """

    data: str
    model: str
    weights: str
    recipe: str
    folds: int
    repeats: int
    points: list[Point]
    power_law: dict[str, float]
    gain: Measurement

    @classmethod
    def load(cls, path: Path) -> LearningCurve:
        """Read ``learning_curve.json``; raises ``BundleError`` if the file is not valid."""
        return read_result(path, LearningCurve)


def learning_curve(
    data: str | Path, *, model: ModelSettings, recipe: RecipeSettings, folds: int = 3, repeats: int = 1, run: RunSettings
) -> LearningCurve:
    """Train on an eighth, a quarter, half and all of the images outside each fold, and evaluate on the fold; test is not used.

    Smaller sets are subsets of larger ones and have the same class proportions. All sizes are trained for the same number of steps: with
    the same number of epochs, small sets would be undertrained, and this would look like a lack of images.

    Args:
        data: a folder, a manifest or a built-in name.
        model: name and weights of the model.
        recipe: recipe; by default one that suits random or pretrained initial weights.
        folds: number of folds, at least 2; four networks are trained for each.
        repeats: number of repetitions, with different folds and seeds.
        run: settings of the run; the folder is ``runs/learning-curve-`` and a name made from data and model by default. The budget is
            divided equally among the trainings.

    Returns:
        The results; also written to ``learning_curve.json``, and all scores to ``scores.npz``.

    Raises:
        DataError: an eighth of the images is too few for training.
        GoalError: ``folds`` is below 2 or ``repeats`` below 1.
    """
    if folds < 2 or repeats < 1:
        raise GoalError(f"{folds} folds, {repeats} repeats", "there are at least 2 folds and 1 repeat", "for example --folds 3 --repeats 2")
    name, seed = model.name, run.seed
    resolved = resolved_recipe(recipe.recipe, recipe.changes, data, pretrained=model.weights is not None)
    require_classes(data, "a learning curve")
    folder = job_folder(run.out, "learning-curve", data, name)
    settings = {
        "data": str(data), "model": name, "weights": str(model.weights or ""), "recipe": resolved.to_yaml(), "curve_folds": folds,
        "repeats": repeats, "budget": run.budget, "skip_bad": run.skip_bad, "seed": seed,
    }  # fmt: skip
    trainings = folds * repeats * len(_SHARES)
    seconds = None if run.budget is None else TRAINED_SHARE * units.seconds(run.budget) / trainings
    with run_folder(folder, settings, run.resume) as job, ExitStack() as stack:
        trainer = FoldTrainer(job.store, folder / "work", data, model, resolved, run, seconds)
        targets = trainer.pool.targets
        outside = len(targets) * (folds - 1) // folds
        sizes = [round(share * outside) for share in _SHARES]
        if sizes[0] < 2 * len(trainer.class_names):
            raise DataError(
                f"{len(targets)} images of {len(trainer.class_names)} classes",
                f"the smallest training has {sizes[0]} of them, and needs two a class",
                "more folds, or planish crossval, which trains on almost all",
            )
        batch, whole = resolved.training.batch_size, resolved.training.epochs
        steps = whole * batches_per_epoch(outside, batch)
        epochs = [max(1, round(steps / max(1, batches_per_epoch(size, batch)))) for size in sizes]
        fold_of = np.stack([trainer.folds(folds, repeat) for repeat in range(repeats)])
        scores = np.zeros((len(sizes), repeats, len(targets)))

        def judged(repeat: int, i: int, s: int) -> Logits:
            order = _nested(np.flatnonzero(fold_of[repeat] != i), targets, seed + repeat)
            learned = np.sort(order if s == len(sizes) - 1 else order[: sizes[s]])
            name, held_out = f"fold-{repeat}-{i}-of-{sizes[s]}", np.flatnonzero(fold_of[repeat] == i)
            return trainer.judge(name, repeat, learned, held_out, epochs[s])[1]

        every = list(itertools.product(range(repeats), range(folds), range(len(sizes))))
        share_steps(job.store, folder, [partial(judged, *one) for one in every])
        stage = stack.enter_context(Stage("training on more and more images", trainings))
        for repeat, i, s in every:
            held_out = fold_of[repeat] == i
            scores[s, repeat, held_out] = judged(repeat, i, s).argmax(axis=1) == targets[held_out]
            stage.advance()
        write_arrays(folder / "scores.npz", keys=np.array(trainer.pool.keys), images=np.array(sizes), scores=scores, folds=fold_of)
        law = fit_power_law(sizes, 1 - scores.mean(axis=(1, 2)))
        gain = gain_of_twice(sizes, scores, fold_of)
        result = LearningCurve(
            **job.record(training_precision=precision_name(trainer.recipe.training.mixed_precision)),
            data=str(data),
            model=name,
            weights=str(model.weights or ""),
            recipe=trainer.recipe.to_yaml(),
            folds=folds,
            repeats=repeats,
            points=[
                Point(size, epoch, percent("accuracy", len(targets), over_folds(score, fold_of)))
                for size, epoch, score in zip(sizes, epochs, scores, strict=True)
            ],
            power_law={"a": float(law.a), "b": float(law.b), "c": float(law.c)},
            gain=percent("difference", len(targets), gain, unit="points"),
        )
        write_result(folder / "learning_curve.json", result)
    return result


def _nested(rows: Indices, targets: Indices, seed: int) -> Indices:
    """Return the rows in a random order in which every prefix has about the same class proportions."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(rows))
    for c in np.unique(targets[rows]):
        of_class = rng.permutation(np.flatnonzero(targets[rows] == c))
        place[of_class] = (np.arange(len(of_class)) + rng.random()) / len(of_class)
    return rows[np.argsort(place, kind="stable")]
