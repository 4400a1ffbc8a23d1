"""The original of a run: trained once and saved in the run's folder; and its answers, which take the place of missing labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planish.artifact import Artifact, Predictor
from planish.errors import ModelError
from planish.evaluation.evaluate import evaluate
from planish.evaluation.metrics.classification import probabilities
from planish.evaluation.statistics.intervals import NORMAL_95, proportion
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import load
from planish.files.atomic import write_json
from planish.models.storage import load_artifact, save_artifact
from planish.progress import logged_as, note
from planish.runs.store import Store
from planish.split_assignment import ASSIGNED_SPLITS
from planish.task import OUTPUTS, SPLITS, SplitName, Task
from planish.tasks import Agreement
from planish.training.augmentation_preview import augmentation_preview
from planish.training.original import Original, TrainMode, train_original
from planish.training.prepare import Job
from planish.training.settings import FitSettings


def stored_original(
    job: Job, folder: Path, store: Store, settings: FitSettings, *, mode: TrainMode, seconds: float | None = None, name: str = "original"
) -> Artifact:
    """Train the job's model unless it was already trained on these classes or by this run; see ``train_original``.

    An interrupted training resumes after the last finished epoch.

    Args:
        job: the images and the model.
        folder: folder of the run.
        store: store of the run.
        settings: settings of the training.
        mode: whether to train.
        seconds: time limit of the training; None for none.
        name: ``original``, or the name of a further teacher.
    """
    place = folder / "work" / name

    def work() -> bool:
        checkpoint = folder / "work" / f"{name}.checkpoint"
        place.parent.mkdir(exist_ok=True)
        with logged_as(name):
            found = train_original(job, settings, mode=mode, checkpoint=checkpoint, seconds=seconds)
        save_artifact(found.artifact, place)
        if name == "original":
            write_training(found, job.task, folder)
        checkpoint.unlink(missing_ok=True)
        return True

    return store.load(name, f"training the {name}", work, lambda _: load_artifact(place, module=job.artifact.module))


def write_training(found: Original, task: Task, folder: Path) -> None:
    """Write ``history.json`` and ``augmented.png`` for the report, if the model was trained."""
    if found.settings is not None:
        write_json(folder / "history.json", [dataclasses.asdict(epoch) for epoch in found.history])
        augmentation_preview(found.artifact, task, found.settings).save(folder / "augmented.png")


def answered(job: Job, folder: Path, store: Store, max_change: float) -> Job:
    """Return the job with the original's answers as targets, computed once in float32; see ``Task.answers``.

    What these images can show is noted: how often which answer occurs, and which change of answers too few images cannot exclude.

    Args:
        job: images without labels and the original.
        folder: folder of the run, which keeps the outputs that answers are made of.
        store: store of the run.
        max_change: maximum share of answers that may change, in percent.

    Raises:
        ModelError: the original returns NaN or infinity.
        GoalError: the task has no answers.
    """
    artifact = job.artifact
    splits = [name for name in SPLITS if name != "train" or job.task.name != OUTPUTS]  # only a teacher trains on raw outputs
    outputs = stored_outputs(store, "answers of the original", folder / "work" / "answers", artifact, job.task, splits)
    answers = {name: job.task.answers(outputs[name], artifact.input_spec) for name in splits}
    if isinstance(job.task, Agreement):
        every = [answers[name] for name in ASSIGNED_SPLITS]
        _note_answers(
            np.concatenate(every), [probabilities(outputs[n]["logits"]).max(axis=1) for n in ASSIGNED_SPLITS], job.task.class_names
        )
        _note_few_images({name: len(answers[name]) for name in ("validation", "test")}, max_change)
    else:
        note("the original's outputs take the place of labels; whether they are right is not measured")
    targets = answers | {name: [None] * len(job.data.splits[name]) for name in SPLITS if name not in splits}
    filled = {name: dataclasses.replace(split, targets=targets[name]) for name, split in job.data.splits.items()}
    task: Any = job.task
    return dataclasses.replace(job, data=dataclasses.replace(job.data, splits=filled), task=dataclasses.replace(task, splits=filled))


def stored_outputs(
    store: Store, key: str, place: Path, artifact: Artifact, task: Task, splits: Sequence[SplitName]
) -> dict[SplitName, dict[str, Any]]:
    """Return the outputs of a model in float32 by split, memory-mapped, computed once.

    Args:
        store: store of the run.
        key: key of the step.
        place: folder for the outputs.
        artifact: a network or an ONNX file.
        task: task with the images.
        splits: which of them.

    Raises:
        ModelError: outputs are NaN or infinite.
    """

    def work() -> dict[str, list[str]]:
        if artifact.module is None:
            predictor: Predictor = load(artifact.files, "onnxruntime", threads=2, batch=None)
        else:
            predictor = TorchPredictor(artifact.module, artifact.preprocessing)
        made: dict[str, list[str]] = {}
        for name in splits:
            outputs = evaluate(predictor, task, name, artifact.input_spec, artifact.preprocessing).outputs
            if not all(np.isfinite(values).all() for values in outputs.values()):
                raise ModelError(f"the original returns NaN or infinity on {name}", "its answers are the reference", "look at its weights")
            (place / name).mkdir(parents=True, exist_ok=True)
            for i, values in enumerate(outputs.values()):
                np.save(place / name / f"{i}.npy", values)
            made[name] = list(outputs)
        return made

    def read(made: dict[str, list[str]]) -> dict[SplitName, dict[str, Any]]:
        return {name: {output: np.load(place / name / f"{i}.npy", "r") for i, output in enumerate(made[name])} for name in splits}

    return store.load(key, "evaluating the original", work, read)


def _note_answers(every: Any, confidences: list[Any], class_names: tuple[str, ...]) -> None:
    sure = 100 * np.concatenate(confidences).mean()
    kinds, counts = np.unique(every, return_counts=True)
    most, share = class_names[kinds[counts.argmax()]], 100 * counts.max() / len(every)
    note(
        f"the original's answers on {len(every):,} images take the place of labels: {len(kinds)} of {len(class_names)} classes occur, "
        f"mean confidence {sure:.0f} %; whether they are right is not measured"
    )
    if len(kinds) == 1:
        note(f"the original answers {most!r} on every image, so agreement is trivial: a model that always answers {most!r} has 100 %")
    else:
        note(f"a model that always answers {most!r} would agree on {share:.0f} % of the images")


def _note_few_images(images: dict[str, int], max_change: float) -> None:
    """Note which change of answers cannot be excluded even if no answer changes, by Wilson's interval."""
    bounds = {name: 100 * (1 - proportion(count, count)[0]) for name, count in images.items()}
    if max(bounds.values()) <= max_change:
        return
    counts, ends = " and ".join(f"{n:,} {name}" for name, n in images.items()), " and ".join(f"{end:.2g} %" for end in bounds.values())
    text = f"few images: even if no answer changes on {counts} images, up to {ends} may change on new ones, at 95 % confidence"
    note(text + (f"; about {NORMAL_95**2 * (100 / max_change - 1):,.0f} images in each would show {max_change:g} %" if max_change else ""))
