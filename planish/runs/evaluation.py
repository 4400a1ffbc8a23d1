"""Saved evaluations: ``evaluation.json``, and ``evaluation.npz`` with the predictions that its numbers are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import InputSpec, Predictor, Preprocessing
from planish.devices.machine import describe_machine
from planish.errors import BundleError, ModelError
from planish.evaluation.errors.confident_errors import Confusion, confusions, worst_mistakes
from planish.evaluation.evaluate import Evaluated, evaluate, evaluate_tiled
from planish.evaluation.metrics.calibration import temperature_scaling
from planish.evaluation.metrics.classification import probabilities
from planish.evaluation.metrics.robustness import robustness
from planish.evaluation.metrics.thresholds import at_threshold, threshold_for_precision, top_scores
from planish.files.atomic import read_arrays, read_result, write_arrays, write_result
from planish.invocation import command_line
from planish.measurement import Measurement, Measurements
from planish.runs.pictures import write_pictures
from planish.runs.record import RunRecord, folder_name
from planish.task import SplitName, Task

_STRICT = ConfigDict(extra="forbid")
_PROMISES = (90.0, 95.0, 99.0)  # target precision of the accepted predictions, in percent
_FILES = "it is evaluation.json and evaluation.npz"
SHOWN_MISTAKES = 24


@dataclass(frozen=True, config=_STRICT)
class Threshold:
    """A minimum probability for accepting predictions at a target precision: chosen on validation, measured on other images.

    Args:
        target_precision: in percent.
        threshold: minimum probability of an accepted prediction; None if no threshold reaches the target precision.
        measurements: ``precision``, ``recall``, ``coverage`` (the share of images that is accepted) and ``f1``.
        reason: why there is no threshold; empty if there is one.
    """

    target_precision: float
    threshold: float | None = None
    measurements: dict[str, Measurement] = Field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, config=_STRICT)
class ClassEvaluation:
    """The metrics of one class against the rest.

    Args:
        name: name of the class.
        measurements: ``precision``, ``recall`` (its accuracy) and ``f1``, in percent; for a task without logits, its one metric per class.
        threshold: threshold for this class at the requested precision; None without logits of validation images.
    """

    name: str
    measurements: dict[str, Measurement]
    threshold: Threshold | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Evaluation(RunRecord):
    """``evaluation.json``: the evaluation of a model on a split.

    Args:
        model: the model as named by the user.
        split: the split that it was evaluated on.
        runtime: the runtime that ran the model.
        metrics: the primary metric first; also the costs of errors (``Task.errors``) and, if measured, the ``temperature`` with the
            metrics before and after scaling, and the metrics on corrupted images.
        per_class: in the order of the model's outputs.
        confusions: the most frequent pairs of confused classes; empty without logits.
        thresholds: thresholds for accepting only confident predictions; empty without logits of validation images.
        misclassified: number of misclassified images; 0 without logits.
    """

    model: str
    data: str
    split: SplitName
    runtime: str
    metrics: Annotated[dict[str, Measurement], Field(min_length=1)]
    per_class: list[ClassEvaluation]
    confusions: list[Confusion]
    thresholds: list[Threshold]
    misclassified: int

    def _repr_html_(self) -> str:
        return Measurements(self.metrics)._repr_html_()


@dataclasses.dataclass(frozen=True)
class Predicted:
    """``evaluation.npz`` of a model with logits.

    Args:
        logits: ``(N, classes)``.
        targets: class indices ``(N,)``.
        keys: one name per image ``(N,)``.
        worst: rows of the most confident errors ``(K,)``, the most confident first.
        pixels: images of these errors, uint8 ``(K, H, W, C)``.
        validation_logits: ``(M, classes)``; M is 0 if the model was not evaluated on validation in addition to the split.
        validation_targets: class indices ``(M,)``.
    """

    logits: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    keys: npt.NDArray[Any]
    worst: npt.NDArray[Any]
    pixels: npt.NDArray[Any]
    validation_logits: npt.NDArray[Any]
    validation_targets: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Scored:
    """``evaluation.npz`` of a model without logits.

    Args:
        scores: one score per image ``(N,)``, see ``Task.scores``.
        keys: one name per image ``(N,)``.
    """

    scores: npt.NDArray[np.float64]
    keys: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class SplitEvaluation:
    """A model's outputs on a split, with their metrics.

    Args:
        split: name of the split.
        found: outputs and targets on this split.
        validation: outputs and targets on validation; None if not requested, if validation is the split itself, or without logits.
        metrics: metrics of ``found``, including those of temperature scaling and corruptions.
    """

    split: SplitName
    found: Evaluated
    validation: Evaluated | None
    metrics: dict[str, Measurement]


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Options of an evaluation.

    Args:
        calibrate: also evaluate on validation, and measure the effect of a temperature fitted there; ignored without logits.
        corruptions: also evaluate on corrupted images.
        seed: seed of the corruptions.
        tile: side in pixels of the tiles that large images are split into; None to run the model on whole images.
    """

    calibrate: bool = True
    corruptions: bool = False
    seed: int = 0
    tile: int | None = None


_USUAL = EvaluationSettings()


def evaluate_split(
    predictor: Predictor,
    task: Task,
    split: SplitName,
    spec: InputSpec,
    preprocessing: Preprocessing,
    settings: EvaluationSettings = _USUAL,
) -> SplitEvaluation:
    """Evaluate a model on a split.

    Args:
        predictor: the model.
        task: task with the images.
        split: name of the split.
        spec: size of the images.
        preprocessing: preprocessing of the model.
        settings: options of the evaluation.
    """
    if settings.tile is None:
        found = evaluate(predictor, task, split, spec, preprocessing)
    else:
        found = evaluate_tiled(predictor, task, split, spec, preprocessing, settings.tile)
    validation = None
    metrics = found.metrics | {m.name: m for m in found.task.errors(found.outputs, found.targets).values()}
    if settings.calibrate and split != "validation" and found.logits is not None:
        validation = evaluate(predictor, task, "validation", spec, preprocessing)
        metrics |= temperature_scaling(validation.logits, validation.targets, found.logits, found.targets)
    if settings.corruptions:
        metrics |= robustness(predictor, task, split, spec, preprocessing, seed=settings.seed)
    return SplitEvaluation(split, found, validation, metrics)


@dataclasses.dataclass(frozen=True)
class EvaluationSubject:
    """What is evaluated: the model and the data as named by the user, and the runtime."""

    model: str
    data: str
    runtime: str


def save_evaluation(
    folder: Path,
    evaluated: SplitEvaluation,
    spec: InputSpec,
    preprocessing: Preprocessing,
    *,
    subject: EvaluationSubject,
    precision: float = 95.0,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Write ``evaluation.json``, ``evaluation.npz`` and, for tasks that can draw predictions, ``pictures.npz``.

    Args:
        folder: output folder, created if it does not exist; existing files are replaced.
        evaluated: the evaluation.
        spec: size of the images.
        preprocessing: preprocessing of the model.
        subject: what was evaluated, as named by the user.
        precision: target precision of the thresholds, in percent.
        notes: decisions that were made on the user's behalf.
    """
    found, task = evaluated.found, evaluated.found.task
    split = task.split(evaluated.split)
    evaluation = Evaluation(
        name=folder_name(folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        model=subject.model,
        data=subject.data,
        split=evaluated.split,
        runtime=subject.runtime,
        metrics=evaluated.metrics,
        per_class=[],
        confusions=[],
        thresholds=[],
        misclassified=0,
        machine=describe_machine(),
        notes=list(notes),
    )
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.asarray(task.scores(found.outputs, found.targets), np.float64)
    predictions: Predicted | Scored
    if found.logits is not None:
        predictions = _predicted(evaluated, task, spec, preprocessing)
        evaluation = _with_classes(evaluation, predictions, task.class_names, None if evaluated.validation is None else precision)
    else:
        predictions = Scored(scores, np.array(split.keys))
        per_class = task.per_class(found.outputs, found.targets)
        evaluation = dataclasses.replace(evaluation, per_class=[ClassEvaluation(name, {m.name: m}) for name, m in per_class.items()])
    write_arrays(folder / "evaluation.npz", **vars(predictions))
    write_pictures(folder / "pictures.npz", task, split, spec, preprocessing, {"model": found.outputs}, {"model": scores})
    write_result(folder / "evaluation.json", evaluation)
    return evaluation


def _predicted(evaluated: SplitEvaluation, task: Task, spec: InputSpec, preprocessing: Preprocessing) -> Predicted:
    split, before = task.split(evaluated.split), evaluated.validation
    logits, targets = evaluated.found.logits, np.asarray(evaluated.found.targets)
    worst = worst_mistakes(logits, targets, SHOWN_MISTAKES)
    return Predicted(
        logits=logits,
        targets=targets,
        keys=np.array(split.keys),
        worst=worst,
        pixels=np.asarray(split.images(spec, preprocessing)[worst]),
        validation_logits=np.zeros((0, len(task.class_names))) if before is None else before.logits,
        validation_targets=np.zeros(0, np.int64) if before is None else np.asarray(before.targets),
    )


def _with_classes(evaluation: Evaluation, predictions: Predicted, names: Sequence[str], precision: float | None) -> Evaluation:
    """Add metrics by class, confusions and the number of errors, and, if a precision is given, thresholds for it."""
    preds, targets = predictions.logits.argmax(axis=1), predictions.targets
    per_class = []
    for number, name in enumerate(names):
        of_class = at_threshold(0.5, preds == number, targets == number)
        per_class.append(ClassEvaluation(name, {key: of_class[key] for key in ("precision", "recall", "f1")}))
    return dataclasses.replace(
        evaluation,
        per_class=per_class if precision is None else _with_thresholds(per_class, predictions, precision),
        confusions=confusions(preds, targets, names),
        thresholds=[] if precision is None else _for_answering(predictions, precision),
        misclassified=int((preds != targets).sum()),
    )


def load_evaluation(folder: Path) -> tuple[Evaluation, Predicted | Scored]:
    """Read the files written by ``save_evaluation``.

    Raises:
        BundleError: a file is missing or damaged.
    """
    evaluation = read_result(folder / "evaluation.json", Evaluation)
    stored = read_arrays(folder / "evaluation.npz")
    kind = Scored if "scores" in stored else Predicted
    try:
        return evaluation, kind(**stored)
    except TypeError as error:
        raise BundleError(f"the evaluation in {folder} cannot be read: {error}", _FILES, "run planish evaluate again with --out") from None


def _for_answering(predictions: Predicted, precision: float) -> list[Threshold]:
    chosen = top_scores(predictions.validation_logits, predictions.validation_targets)
    told = top_scores(predictions.logits, predictions.targets)
    return [_threshold(wanted, chosen, told) for wanted in sorted({*_PROMISES, precision})]


def _with_thresholds(per_class: Sequence[ClassEvaluation], predictions: Predicted, precision: float) -> list[ClassEvaluation]:
    chosen, told = probabilities(predictions.validation_logits), probabilities(predictions.logits)
    return [
        ClassEvaluation(
            each.name,
            each.measurements,
            _threshold(
                precision,
                (chosen[:, number], predictions.validation_targets == number),
                (told[:, number], predictions.targets == number),
            ),
        )
        for number, each in enumerate(per_class)
    ]


def _threshold(wanted: float, chosen: tuple[Any, Any], told: tuple[Any, Any]) -> Threshold:
    """Choose a threshold on ``chosen`` and measure it on ``told``, both pairs of scores and labels (positive or not)."""
    try:
        value = threshold_for_precision(*chosen, wanted / 100)
    except ModelError as error:
        return Threshold(wanted, reason=f"{error.received}; {error.rule}")
    return Threshold(wanted, value, at_threshold(value, *told))
