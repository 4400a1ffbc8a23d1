"""A finished run of ``planish optimize``: what the peers start from, and what they are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planish.artifact import Artifact
from planish.data import Decoding, load_images
from planish.errors import BundleError, DataError
from planish.models.storage import load_artifact
from planish.plan import Plan
from planish.runs.store import Store
from planish.search.result import Result
from planish.split_assignment import SPLITS_FILE, SplitAssignment
from planish.tasks import Classification
from planish.training import Distill


@dataclass(frozen=True)
class Finished:
    """A run's original, its images and what it found.

    Args:
        folder: of the run.
        result: its ``result.json``.
        task: the same images in the same splits.
        original: the trained network that Planish started from.
        recovery: how its candidates were trained.
        training_seconds: that Planish spent so on all of them.
        chosen_seconds: of that on what it shipped.
    """

    folder: Path
    result: Result
    task: Classification
    original: Artifact
    recovery: Distill
    training_seconds: float
    chosen_seconds: float

    @property
    def threads(self) -> int:
        return int(self.result.machine["threads"])

    @property
    def batch(self) -> int:
        return int(self.result.machine["batch"])


def open_finished(folder: Path, data: str | None) -> Finished:
    """Read a run.

    Args:
        folder: of the run.
        data: where its images are; None for where they were.

    Raises:
        BundleError: there is no finished run, or none of its candidates was trained.
        DataError: the images are not those of the run.
    """
    if not (folder / "result.json").is_file():
        raise BundleError(f"there is no result.json in {folder}", "peers are measured against a finished run", "run planish optimize first")
    result, original = Result.load(folder / "result.json"), load_artifact(folder / "work" / "original")
    chosen, *others = (Plan.from_dicts(c.plan) for c in (result.chosen, *result.candidates))
    recoveries = [step for plan in (chosen, *others) for step in plan.steps if isinstance(step, Distill)]
    if not recoveries:
        raise BundleError(
            f"Planish trained no candidate in {folder}", "peers recover as its candidates did", "give planish optimize a longer --budget"
        )
    store = Store.at(folder)
    settings, seconds = store.get("job"), store.seconds()
    trained = (Plan(*chosen.steps[: i + 1]) for i, step in enumerate(chosen.steps) if isinstance(step, Distill))
    chosen_seconds = sum(store.seconds_of(f"artifact:{plan.key}") for plan in trained)
    store.close()
    assignment = SplitAssignment.load(folder / SPLITS_FILE)
    images = load_images(
        data or settings["data"],
        seed=settings["seed"],
        skip_bad=settings["skip_bad"],
        decoding=Decoding(original.preprocessing.decode_side, original.input_spec.channels),
        assignment=assignment,
    )
    if images.assignment.splits != assignment.splits or images.known != images.report.images:
        raise DataError(
            f"{data or settings['data']} is not split as the run's images were",
            "the peers train, choose and are tested on the very same images",
            "name the run's images with --data",
        )
    task = Classification(images.splits, images.class_names)
    return Finished(folder, result, task, original, recoveries[0], seconds[Distill.name], chosen_seconds)
