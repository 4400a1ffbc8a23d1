"""Cross-validation over train and validation: every image is predicted by a network that was not trained on it. Test is not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from planish import units
from planish.data import require_classes
from planish.data.splits import Indices
from planish.data.splits import folds as cut_into_folds
from planish.data.subset import Subset
from planish.errors import GoalError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.metrics.classification import percent, share
from planish.evaluation.statistics.intervals import over_folds
from planish.evaluation.torch_predictor import TorchPredictor
from planish.files.atomic import job_folder, read_arrays, read_result, write_arrays, write_result
from planish.measurement import Measurement
from planish.progress import note
from planish.runs.precision import decided_precision, in_precision, precision_name
from planish.runs.record import RunRecord, run_folder
from planish.runs.store import Store
from planish.runs.trainings import seeded
from planish.runs.workers import share_steps
from planish.settings import ModelSettings, RecipeSettings, RunSettings
from planish.split_assignment import keep_assignment
from planish.tasks import Classification
from planish.training.fit import FitRun, fit
from planish.training.prepare import Job, prepare_job
from planish.training.recipe import Recipe, apply_modifications, resolved_recipe

_STRICT = ConfigDict(extra="forbid")
TRAINED_SHARE = 0.9  # share of the budget for training; the rest is for evaluation

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, config=_STRICT)
class Fold:
    """One network, trained on all folds but one.

    Args:
        repeat: index of the repetition, from 0; each one has different folds and different initial weights.
        fold: index of the held-out fold, from 0.
        training_images: number of training images.
        accuracy: accuracy on the held-out fold; the interval is over its images.
        epochs: epochs of training.
        seconds: duration of training.
    """

    repeat: int
    fold: int
    training_images: int
    accuracy: Measurement
    epochs: float
    seconds: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Folds(RunRecord):
    """Results of cross-validation; ``folds.json``.

    Args:
        recipe: recipe of all networks, as YAML.
        folds: number of folds in each repetition.
        repeats: number of repetitions, with different folds and seeds.
        accuracy: accuracy of networks trained on all folds but one; its interval is that of ``statistics.over_folds``.
        trained: one entry per network.
    """

    data: str
    model: str
    weights: str
    recipe: str
    folds: int
    repeats: int
    accuracy: Measurement
    trained: list[Fold]

    @classmethod
    def load(cls, path: Path) -> Folds:
        """Read ``folds.json``; raises ``BundleError`` if the file is not valid."""
        return read_result(path, Folds)


@plain_dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions; ``out_of_fold.npz``.

    Args:
        keys: keys of the images, ``(N,)``.
        targets: class indices, ``(N,)``.
        folds: fold in which each image was held out, ``(repeats, N)``.
        logits: predictions of the networks that were not trained on the image, ``(repeats, N, classes)``.
    """

    keys: npt.NDArray[np.str_]
    targets: Indices
    folds: Indices
    logits: Logits

    @classmethod
    def load(cls, folder: Path) -> OutOfFold:
        """Read ``out_of_fold.npz`` in this folder."""
        names = ("keys", "targets", "folds", "logits")
        found = read_arrays(folder / "out_of_fold.npz", names)
        return cls(**{name: found[name] for name in names})


class FoldTrainer:
    """Trains networks on some images of train and validation and predicts others. Finished trainings are stored and not repeated.

    Args:
        store: store of finished trainings.
        folder: folder for their logits.
        data: data source of all trainings.
        model: model of all trainings.
        recipe: recipe of all trainings; if its precision is "auto", it is decided once for all of them.
        run: seed of the first repetition, and whether broken images are skipped.
        seconds: time limit of each training; None to train for the recipe's epochs.
    """

    def __init__(
        self, store: Store, folder: Path, data: str | Path, model: ModelSettings, recipe: Recipe, run: RunSettings, seconds: float | None
    ) -> None:
        self.store, self.folder, self.recipe, self.seconds, self.seed = store, folder, recipe, seconds, run.seed
        self._data, self._model, self._skip_bad = data, replace(model, image_size=recipe.image_size), run.skip_bad
        self._jobs: dict[int, Job] = {}
        folder.mkdir(exist_ok=True)
        precision = decided_precision(store, recipe.training.mixed_precision, lambda: self.job(0).artifact)
        self.recipe = in_precision(recipe, precision)
        images = self.job(0).data
        keep_assignment(folder.parent, images.assignment)
        self.pool = images.splits["train"].joined(images.splits["validation"])
        self.class_names = images.class_names

    def job(self, repeat: int) -> Job:
        """Return the images, and the network with the initial weights of this repetition."""
        if repeat not in self._jobs:
            self._jobs.clear()
            recipe, seed = self.recipe, self.seed
            self._jobs[repeat] = prepare_job(
                self._data, self._model, normalisation=recipe.normalisation, skip_bad=self._skip_bad, seed=seed, weights_seed=seed + repeat
            )
        return self._jobs[repeat]

    def folds(self, count: int, repeat: int) -> Indices:
        """Return the fold of each image of the pool, ``(N,)``; near duplicates share a fold."""
        return cut_into_folds(self.pool.targets, self.pool.groups, count, self.seed + repeat, self.class_names)

    def judge(self, name: str, repeat: int, learned: Indices, judged: Indices, epochs: int | None = None) -> tuple[Fold, Logits]:
        """Train on the rows ``learned`` of the pool and predict the rows ``judged``.

        Args:
            name: name of this training, used as a file name.
            repeat: index of the repetition, which is added to the first seed.
            learned: training rows of the pool.
            judged: held-out rows of the pool.
            epochs: overrides the recipe's epochs.

        Returns:
            The result, with fold 0 as a placeholder, and logits ``(len(judged), classes)``.
        """
        place, checkpoint = self.folder / f"{name}.npz", self.folder / f"{name}.checkpoint"

        def work() -> Any:
            fold, logits = self._train(repeat, learned, judged, epochs, checkpoint)
            write_arrays(place, logits=logits)
            return TypeAdapter(Fold).dump_python(fold, mode="json")

        def read(found: Any) -> tuple[Fold, Logits]:
            return TypeAdapter(Fold).validate_python(found), read_arrays(place)["logits"]

        judgement = self.store.load(f"training:{name}", "training", work, read)
        checkpoint.unlink(missing_ok=True)
        return judgement

    def _train(self, repeat: int, learned: Indices, judged: Indices, epochs: int | None, checkpoint: Path) -> tuple[Fold, Logits]:
        job, seed = self.job(repeat), self.seed + repeat
        train, held_out = Subset(self.pool, learned), Subset(self.pool, judged)
        task = Classification({"train": train, "calibration": train, "validation": held_out}, self.class_names)
        artifact = apply_modifications(job.artifact, task, [seeded(modification, seed) for modification in self.recipe.techniques()])
        settings = replace(self.recipe.training, seed=seed, epochs=epochs or self.recipe.training.epochs)
        fitted = fit(
            artifact.module, task, artifact.input_spec, artifact.preprocessing, settings, 
            run=FitRun(checkpoint, self.seconds, validate=False),  # the held-out images must not determine when to stop
        )  # fmt: skip
        predictor = TorchPredictor.fastest(fitted.module, artifact.preprocessing)
        found = evaluate(predictor, task, "validation", artifact.input_spec, artifact.preprocessing)
        accuracy = percent("accuracy", len(judged), share(task.scores(found.outputs, found.targets) == 1))
        return Fold(repeat, 0, len(learned), accuracy, fitted.epochs, fitted.seconds), found.outputs["logits"].astype(np.float32)


def folds(
    data: str | Path,
    *,
    model: ModelSettings,
    recipe: RecipeSettings,
    folds: int = 5,
    repeats: int = 1,
    run: RunSettings,
    watch: Callable[[Sequence[Fold]], None] | None = None,
) -> Folds:
    """Estimate the accuracy of a recipe on unseen images: stratified cross-validation over train and validation.

    Near duplicates share a fold. No network is evaluated on its held-out fold during training, so early stopping has no effect.

    Args:
        data: a folder, a manifest or a built-in name.
        model: name and weights of the model.
        recipe: recipe; by default one that suits random or pretrained initial weights.
        folds: number of folds, at least 2; each network is trained on all but one.
        repeats: number of repetitions, with different folds and seeds.
        run: settings of the run; the folder is ``runs/folds-`` and a name made from data and model by default. The budget is divided
            equally among the trainings.
        watch: called with the finished folds after each training.

    Returns:
        The results; also written to ``folds.json``, and all logits to ``out_of_fold.npz``.

    Raises:
        DataError: the images cannot be divided into that many folds.
        GoalError: ``folds`` is below 2 or ``repeats`` below 1.
    """
    if folds < 2 or repeats < 1:
        raise GoalError(f"{folds} folds, {repeats} repeats", "there are at least 2 folds and 1 repeat", "for example --folds 5 --repeats 2")
    name, seed = model.name, run.seed
    resolved = resolved_recipe(recipe.recipe, recipe.changes, data, pretrained=model.weights is not None)
    require_classes(data, "cross-validation")
    folder = job_folder(run.out, "folds", data, name)
    settings = {
        "data": str(data), "model": name, "weights": str(model.weights or ""), "recipe": resolved.to_yaml(), "folds": folds,
        "repeats": repeats, "budget": run.budget, "skip_bad": run.skip_bad, "seed": seed,
    }  # fmt: skip
    seconds = None if run.budget is None else TRAINED_SHARE * units.seconds(run.budget) / (folds * repeats)
    with run_folder(folder, settings, run.resume) as job:
        if resolved.training.patience is not None:
            note("held-out folds are not evaluated during training, so patience (early stopping) has no effect")
        trainer = FoldTrainer(job.store, folder / "work", data, model, resolved, run, seconds)
        trained: list[Fold] = []
        fold_of = np.stack([trainer.folds(folds, repeat) for repeat in range(repeats)])
        logits = np.zeros((repeats, len(trainer.pool), len(trainer.class_names)), np.float32)

        def judged(repeat: int, i: int) -> tuple[Fold, Logits]:
            held_out = fold_of[repeat] == i
            return trainer.judge(f"fold-{repeat}-{i}", repeat, np.flatnonzero(~held_out), np.flatnonzero(held_out))

        share_steps(job.store, folder, [partial(judged, repeat, i) for repeat in range(repeats) for i in range(folds)])
        for repeat in range(repeats):
            for i in range(folds):
                found, said = judged(repeat, i)
                logits[repeat, fold_of[repeat] == i] = said
                trained.append(replace(found, fold=i))
                if watch:
                    watch(trained)
        targets = trainer.pool.targets
        write_arrays(folder / "out_of_fold.npz", keys=np.array(trainer.pool.keys), targets=targets, folds=fold_of, logits=logits)
        right = (logits.argmax(axis=2) == targets).astype(np.float64)
        result = Folds(
            **job.record(training_precision=precision_name(trainer.recipe.training.mixed_precision)),
            data=str(data),
            model=name,
            weights=str(model.weights or ""),
            recipe=trainer.recipe.to_yaml(),
            folds=folds,
            repeats=repeats,
            accuracy=percent("accuracy", len(targets), over_folds(right, fold_of)),
            trained=trained,
        )
        write_result(folder / "folds.json", result)
    return result
