"""Calibration images, a small sample spread evenly over the calibration split, for measuring importance, statistics and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from planish.artifact import Artifact
from planish.data.normalisation import Normalise
from planish.progress import Stage

if TYPE_CHECKING:
    from planish.task import Task

_BATCH = 32


def calibration_batches(artifact: Artifact, task: Task, count: int = 256) -> Callable[[], Iterator[tuple[Tensor, Any]]]:
    """Return a function that yields batches of normalised calibration images ``(N, C, H, W)`` and targets, the same ones at every call.

    Args:
        artifact: the network whose input spec and preprocessing are used.
        task: the task whose calibration split is used.
        count: maximum number of images.
    """
    split, normalise = task.split("calibration"), Normalise.of(artifact.preprocessing)

    def batches() -> Iterator[tuple[Tensor, Any]]:
        pixels, targets = split.images(artifact.input_spec, artifact.preprocessing), split.targets
        taken = min(len(split), count)
        places = np.linspace(0, len(split) - 1, taken).round().astype(int)  # evenly spread, as a split may be sorted by class
        count_of_batches = -(-taken // _BATCH)
        for first in range(count_of_batches):
            # batches have about equal size and each is spread over the split, because their statistics are averaged with equal weight
            batch = places[first::count_of_batches]
            yield normalise(torch.from_numpy(np.array(pixels[batch]))), task.batch_targets(targets, batch, artifact.input_spec)

    return batches


def calibration_images(artifact: Artifact, task: Task, count: int, stage: Stage) -> Iterator[Tensor]:
    """Yield the images of ``calibration_batches`` on the network's device and advance ``stage`` by the number of images."""
    device = next(artifact.module.parameters()).device
    for images, _ in calibration_batches(artifact, task, count)():
        yield images.to(device)
        stage.advance(len(images))
