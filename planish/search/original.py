"""The original of a run: trained once, kept in the run's folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from planish.artifact import Artifact
from planish.data.augmentation import Strength
from planish.models.storage import load_artifact, save_artifact
from planish.search.files import write_json
from planish.search.store import Store
from planish.training.original import TrainMode, train_original
from planish.training.prepare import Job


def stored_original(
    job: Job,
    folder: Path,
    store: Store,
    mode: TrainMode,
    epochs: int | None,
    augmentation: Strength,
    seconds: float | None,
    seed: int,
    name: str = "original",
) -> Artifact:
    """Train the job's model unless it knows the classes or was trained before; see ``train_original``. Killed, it goes on after the last
    finished epoch. ``name`` is another one where a further teacher is trained.
    """
    place = folder / "work" / name

    def work() -> bool:
        checkpoint = folder / "work" / f"{name}.checkpoint"
        checkpoint.parent.mkdir(exist_ok=True)
        found = train_original(job, mode=mode, epochs=epochs, augmentation=augmentation, checkpoint=checkpoint, seconds=seconds, seed=seed)
        save_artifact(found.artifact, place)
        if found.history and name == "original":
            write_json(folder / "history.json", [dataclasses.asdict(epoch) for epoch in found.history])
        checkpoint.unlink(missing_ok=True)
        return True

    store.once(name, f"training the {name}", work)
    return load_artifact(place, module=job.artifact.module)
