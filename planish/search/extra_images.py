"""Images without labels that networks are also distilled on, with the original's answers as targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from planish.artifact import Artifact
from planish.data import load_unlabelled
from planish.data.joined import JoinedSplit, copies_of
from planish.errors import DataError
from planish.progress import note
from planish.runs.networks.answers import stored_outputs
from planish.runs.store import Store
from planish.settings import ModelSettings
from planish.split_assignment import ASSIGNED_SPLITS
from planish.task import Task
from planish.training.prepare import Job, decoding_for


def with_extra_images(
    job: Job, source: str | Path, original: Artifact, settings: ModelSettings, folder: Path, store: Store, *, skip_bad: bool = False
) -> Task:
    """Return the job's task with more training images, whose targets are the original's answers, computed once in float32.

    Copies and near copies of labelled images are left out, since the network is judged by some of those.

    Args:
        job: labelled images.
        source: a folder with images; labels are ignored.
        original: the network that answers.
        settings: of the network, by which images are decoded.
        folder: folder of the run, which keeps the outputs.
        store: store of the run.
        skip_bad: skip broken images.

    Raises:
        DataError: there are no other images in the folder, or files are broken.
        GoalError: the task has no answers.
    """
    data = load_unlabelled(f"unlabelled:{source}", decoding_for(settings), skip_bad=skip_bad)
    images = data.all_in_test().splits["test"]
    known = copies_of(images, [job.data.splits[name] for name in ASSIGNED_SPLITS])
    if known.all():
        raise DataError(f"all {len(images)} images of {str(source)!r} are also in {job.data.name}", "extra images are others", "omit them")
    rows, task = np.flatnonzero(~known), cast(Any, job.task)
    asked = replace(task, splits={**task.splits, "train": images.selected(rows, np.zeros(len(rows), np.int64))})
    outputs = stored_outputs(store, "answers on extra images", folder / "work" / "extra-answers", original, asked, ["train"])["train"]
    extra = images.selected(rows, task.answers(outputs, original.input_spec))
    note(
        f"{len(extra):,} images of {data.name} without labels also teach, with the answers of the original"
        + (f"; {len(images) - len(extra):,} are left out as copies or near copies of labelled ones" if known.any() else "")
    )
    joined = JoinedSplit(task.splits["train"], extra, f"{data.name}/")
    return cast("Task", replace(task, splits={**task.splits, "train": joined}))
