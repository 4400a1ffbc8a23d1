"""The answers of a network on images without labels, which take the place of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from planish.progress import note
from planish.runs.store import Store
from planish.split_assignment import ASSIGNED_SPLITS
from planish.task import OUTPUTS, SPLITS, SplitName, Task
from planish.tasks import Agreement
from planish.training.prepare import Job


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
    splits = _answered_splits(job.task)
    outputs = stored_outputs(store, "answers of the original", folder / "work" / "answers", artifact, job.task, splits)
    return _with_answers(job, outputs, max_change)


def answered_at_once(job: Job) -> Job:
    """Like ``answered``, for a job without a store."""
    predictor, artifact = _predictor(job.artifact), job.artifact
    return _with_answers(job, {name: _finite_outputs(predictor, artifact, job.task, name) for name in _answered_splits(job.task)})


def _answered_splits(task: Task) -> list[SplitName]:
    return [name for name in SPLITS if name != "train" or task.name != OUTPUTS]  # only a teacher trains on raw outputs


def _with_answers(job: Job, outputs: Mapping[SplitName, Mapping[str, Any]], max_change: float | None = None) -> Job:
    task: Any = job.task
    answers = {name: task.answers(found, job.artifact.input_spec) for name, found in outputs.items()}
    if isinstance(task, Agreement):
        every = [answers[name] for name in ASSIGNED_SPLITS]
        _note_answers(np.concatenate(every), [probabilities(outputs[n]["logits"]).max(axis=1) for n in ASSIGNED_SPLITS], task.class_names)
        if max_change is not None:
            _note_few_images({name: len(answers[name]) for name in ("validation", "test")}, max_change)
    else:
        note("the original's outputs take the place of labels; whether they are right is not measured")
    targets = {name: answers.get(name, [None] * len(split)) for name, split in job.data.splits.items()}
    filled = {name: replace(split, targets=targets[name]) for name, split in job.data.splits.items()}
    return replace(job, data=replace(job.data, splits=filled), task=replace(task, splits=filled))


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
        predictor = _predictor(artifact)
        made: dict[str, list[str]] = {}
        for name in splits:
            outputs = _finite_outputs(predictor, artifact, task, name)
            (place / name).mkdir(parents=True, exist_ok=True)
            for i, values in enumerate(outputs.values()):
                np.save(place / name / f"{i}.npy", values)
            made[name] = list(outputs)
        return made

    def read(made: dict[str, list[str]]) -> dict[SplitName, dict[str, Any]]:
        return {name: {output: np.load(place / name / f"{i}.npy", "r") for i, output in enumerate(made[name])} for name in splits}

    return store.load(key, "evaluating the original", work, read)


def _predictor(artifact: Artifact) -> Predictor:
    if artifact.module is None:
        return load(artifact.files, "onnxruntime", threads=2, batch=None)
    return TorchPredictor(artifact.module, artifact.preprocessing)


def _finite_outputs(predictor: Predictor, artifact: Artifact, task: Task, name: SplitName) -> dict[str, Any]:
    outputs = evaluate(predictor, task, name, artifact.input_spec, artifact.preprocessing).outputs
    if not all(np.isfinite(values).all() for values in outputs.values()):
        raise ModelError(f"the original returns NaN or infinity on {name}", "its answers are the reference", "look at its weights")
    return outputs


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
