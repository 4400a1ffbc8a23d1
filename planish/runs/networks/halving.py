"""Successive halving of networks by short trainings, and how their accuracies are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from planish.artifact import Artifact
from planish.evaluation.evaluate import evaluate
from planish.evaluation.metrics.classification import percent, share
from planish.evaluation.statistics.intervals import paired_difference
from planish.evaluation.torch_predictor import TorchPredictor
from planish.files.atomic import write_arrays
from planish.measurement import Measurement
from planish.progress import note
from planish.task import Task
from planish.training.fit import FitRun, fit
from planish.training.settings import FitSettings


def successive_halving(
    names: Sequence[str],
    rounds: Sequence[tuple[int, float]],
    seconds: float,
    least_seconds: float,
    train: Callable[[str, int, float], float],
    workers: int = 1,
    share: Callable[[Sequence[Callable[[], Any]]], None] | None = None,
) -> list[str]:
    """Train networks in rounds; the best of each round are trained anew, for longer, in the next one.

    K. Jamieson and A. Talwalkar 2016, arXiv:1502.07943.

    Args:
        names: networks, the most promising first.
        rounds: for each round the maximum number of networks, and its share of the time.
        seconds: time for all trainings.
        least_seconds: of one training; where the time is short, fewer networks are trained, and rounds are omitted.
        train: trains a network, given its name, the number of the round and the seconds; returns its accuracy.
        workers: number of networks that are trained at the same time.
        share: has workers carry out the trainings of a round, given the calls of ``train``; see ``share_steps``.

    Returns:
        The names of the last round that took place, the best first; empty if none did.
    """
    order, left = list[str](), list(names)
    for number, (count, part) in enumerate(rounds):
        kept = left[: min(count, max(1, workers * int(part * seconds / least_seconds)))]
        each = part * seconds / max(1, math.ceil(len(kept) / workers))
        if not kept or each < least_seconds or (number and len(left) < 2):
            note(f"the budget leaves no time for round {number + 1} of the trainings")
            break
        if share is not None:
            share([partial(train, name, number, each) for name in kept])
        accuracies = {name: train(name, number, each) for name in kept}
        order = left = sorted(kept, key=lambda name: -accuracies[name])
    return order


def train_for(artifact: Artifact, task: Task, settings: FitSettings, seconds: float, folder: Path, scores: Path, about: str) -> float:
    """Train a network for a time and save which validation images it classifies correctly, as the array ``right``.

    Args:
        artifact: the network.
        task: task with the images.
        settings: settings of the training.
        seconds: time limit.
        folder: folder for the checkpoint.
        scores: file to write.
        about: line of text for the user.

    Returns:
        The number of epochs.
    """
    note(about)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, spec, preprocessing = folder / "training.checkpoint", artifact.input_spec, artifact.preprocessing
    fitted = fit(artifact.module, task, spec, preprocessing, settings, run=FitRun(checkpoint, seconds, validate=False))
    found = evaluate(TorchPredictor.fastest(fitted.module, preprocessing), task, "validation", spec, preprocessing)
    write_arrays(scores, right=task.scores(found.outputs, found.targets) == 1)
    checkpoint.unlink(missing_ok=True)
    return fitted.epochs


def accuracy_of(right: Any) -> Measurement:
    """Convert whether each image is classified correctly ``(N,)`` to an accuracy."""
    return percent("accuracy", len(right), share(right))


def no_difference(here: Any, there: Any) -> bool:
    """Whether two networks' accuracies do not differ, given which of the same images each classifies correctly."""
    difference = paired_difference(here, there)
    return difference.low <= 0 <= difference.high
