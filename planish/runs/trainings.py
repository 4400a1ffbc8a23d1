"""The trainings of an experiment: each trains one arm with one seed, runs once, and saves one score per image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact
from planish.devices.memory import peak_memory
from planish.errors import DataError, ModelError, TechniqueError, TrainingError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.torch_predictor import TorchPredictor
from planish.files.atomic import read_arrays, write_arrays
from planish.runs.converted_onnx import is_external_onnx, network_job
from planish.runs.store import Store
from planish.settings import ModelSettings
from planish.split_assignment import SplitAssignment, assignment_beside, combined, keep_assignment
from planish.task import SplitName, metric_of
from planish.technique import Technique
from planish.training.fit import FitRun, fit
from planish.training.prepare import Job, prepare_job
from planish.training.recipe import Recipe, apply_modifications

MAX_EPOCHS_WITH_TIME_LIMIT = 60  # maximum number of epochs if the training is limited by time
_ANY_TASK = ModelSettings()
_JUDGED: tuple[SplitName, ...] = ("validation", "test")

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Training:
    """The outcome of training one arm with one seed.

    Args:
        seed: seed of weights, shuffling and augmentation.
        epochs: number of epochs that it was trained.
        seconds: training time.
        peak_memory_bytes: peak memory beyond that of the process before training.
        parameters: number of parameters of the network.
        curve: ``(seconds, validation score in %)`` after each epoch.
        metric: name of the metric of the curve.
        error: why there is no trained network; empty otherwise.
    """

    seed: int
    epochs: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    parameters: int = 0
    curve: list[tuple[float, float]] = Field(default_factory=list)
    metric: str = "accuracy"
    error: str = ""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Arm:
    """One arm of an experiment: a network by name, its initial weights (a file, ``imagenet``, or empty for random ones), and the recipe."""

    model: str
    weights: str
    recipe: Recipe

    def key(self, seed: int) -> str:
        """Content hash, 12 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.model, self.weights, self.recipe.to_yaml(), seed]).encode()).hexdigest()[:12]


class Trainer:
    """Runs the trainings of an experiment.

    Args:
        store: store of finished trainings.
        folder: folder for their scores.
        data: the images; all trainings use the same split, determined by ``seed``.
        skip_bad: skip broken images.
        seed: seed of the split.
        seconds: time limit of each training; None to train for the epochs of the recipe.
        model: holds the task and the metric of all trainings; its other values are not used.
        assignment: the splits that all arms share; see ``shared_assignment``.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        data: str | Path,
        skip_bad: bool,
        seed: int,
        seconds: float | None,
        model: ModelSettings = _ANY_TASK,
        assignment: SplitAssignment | None = None,
    ) -> None:
        self.store, self.folder, self.seconds, self._model = store, folder, seconds, model
        self._data, self._skip_bad, self._seed = data, skip_bad, seed
        self._assignment = assignment
        self._jobs: dict[tuple[Any, ...], Job] = {}
        folder.mkdir(exist_ok=True)

    def trial(self, arm: Arm, seed: int) -> Training:
        """Train one arm with one seed, unless that was done before; if it fails, the reason is in ``Training.error``."""

        def read(found: Any) -> Training:
            trial = TypeAdapter(Training).validate_python(found)
            for split in () if trial.error else _JUDGED:
                read_arrays(self._file(arm, seed, split))
            return trial

        trial = self.store.load(
            f"trial:{arm.key(seed)}", "training", lambda: TypeAdapter(Training).dump_python(self._train(arm, seed), mode="json"), read
        )
        self._checkpoint(arm, seed).unlink(missing_ok=True)
        return trial

    def scores(self, arm: Arm, seeds: int, split: SplitName) -> Scores:
        """Return one score per image of the split for each of the first ``seeds`` seeds: ``(seeds, N)``."""
        return np.stack([read_arrays(self._file(arm, seed, split))["scores"] for seed in range(self._seed, self._seed + seeds)])

    def start(self, arm: Arm, seed: int) -> tuple[Job, Artifact]:
        """Return the job, and the untrained network with the recipe's modifications applied.

        Raises:
            TechniqueError: a modification does not apply.
            ModelError: the network or its weights cannot be used.
        """
        job = self._job(arm, seed)
        return job, apply_modifications(job.artifact, job.task, [seeded(modification, seed) for modification in arm.recipe.techniques()])

    def _train(self, arm: Arm, seed: int) -> Training:
        settings = replace(arm.recipe.training, seed=seed)
        if self.seconds is not None:
            settings = replace(settings, epochs=MAX_EPOCHS_WITH_TIME_LIMIT)
        try:
            job, artifact = self.start(arm, seed)
            spec, preprocessing = artifact.input_spec, artifact.preprocessing
            with peak_memory(next(artifact.module.parameters()).device) as peak:
                fitted = fit(
                    artifact.module, job.task, spec, preprocessing, settings,
                    run=FitRun(self._checkpoint(arm, seed), self.seconds),
                )  # fmt: skip
        except (TechniqueError, ModelError) as error:
            return Training(seed, error=f"refused: {error}")
        except TrainingError as error:
            return Training(seed, error=f"failed: {error}")
        predictor = TorchPredictor.fastest(fitted.module, preprocessing)
        for split in _JUDGED:
            found = evaluate(predictor, job.task, split, spec, preprocessing)
            write_arrays(self._file(arm, seed, split), scores=job.task.scores(found.outputs, found.targets))
        spent = np.cumsum([epoch.seconds for epoch in fitted.history]).tolist()
        curve = [(s, epoch.validation_score) for s, epoch in zip(spent, fitted.history, strict=True)]
        parameters = sum(p.numel() for p in fitted.module.parameters())
        return Training(seed, fitted.epochs, fitted.seconds, peak.bytes, parameters, curve, metric_of(job.task).name)

    def _job(self, arm: Arm, seed: int) -> Job:
        key = (arm.model, arm.weights, arm.recipe.image_size, arm.recipe.normalisation, seed)
        if key not in self._jobs:
            self._jobs.clear()
            settings = ModelSettings(
                arm.model, weights=arm.weights or None, image_size=arm.recipe.image_size, task=self._model.task, metric=self._model.metric
            )
            self._jobs[key] = (
                self._from_file(arm, settings)
                if is_external_onnx(arm.model)
                else prepare_job(
                    self._data,
                    settings,
                    normalisation=arm.recipe.normalisation,
                    skip_bad=self._skip_bad,
                    seed=self._seed,
                    weights_seed=seed,
                    assignment=self._assignment,
                )
            )
            metric = metric_of(self._jobs[key].task)
            if metric.unit != "%":
                raise DataError(
                    f"trainings that are compared by {metric.name}", "their intervals are of metrics in percent", "choose another --metric"
                )
            keep_assignment(self.folder.parent, self._jobs[key].data.assignment)
        return self._jobs[key]

    def _from_file(self, arm: Arm, settings: ModelSettings) -> Job:
        if arm.recipe.normalisation != "dataset":
            raise ModelError(
                f"normalisation {arm.recipe.normalisation} for {arm.model}", "the weights in a file expect that of their data", "omit it"
            )
        return network_job(self._data, settings, skip_bad=self._skip_bad, seed=self._seed, assignment=self._assignment)

    def _file(self, arm: Arm, seed: int, split: SplitName) -> Path:
        return self.folder / f"scores-{arm.key(seed)}-{split}.npz"

    def _checkpoint(self, arm: Arm, seed: int) -> Path:
        return self.folder / f"{arm.key(seed)}.checkpoint"


def shared_assignment(arms: Sequence[Arm]) -> SplitAssignment | None:
    """Merge the split assignments stored with the arms' weights, so that all arms are compared on the same images."""
    return combined(assignment_beside(Path(weights)) for weights in sorted({arm.weights for arm in arms if arm.weights}))


def seeded(modification: Technique, seed: int) -> Technique:
    """Return the modification with the given seed, if it has one."""
    return replace(modification, seed=seed) if hasattr(modification, "seed") else modification  # type: ignore[type-var]
