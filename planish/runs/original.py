"""The original of a run: trained once and saved in the run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from planish.artifact import Artifact
from planish.files.atomic import write_json
from planish.models.storage import load_artifact, save_artifact
from planish.progress import logged_as
from planish.runs.store import Store
from planish.task import Task
from planish.training.augmentation_preview import augmentation_preview
from planish.training.original import Original, TrainMode, train_original
from planish.training.prepare import Job
from planish.training.settings import FitSettings

_HISTORY = "history.json"


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
        write_json(folder / _HISTORY, [dataclasses.asdict(epoch) for epoch in found.history])
        augmentation_preview(found.artifact, task, found.settings).save(folder / "augmented.png")


def trained_here(folder: Path) -> bool:
    """Whether the original of a run was trained by it."""
    return (folder / _HISTORY).exists()
