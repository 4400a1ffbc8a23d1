"""Images to measure importance, statistics and losses on: a few, spread over the calibration split."""

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
    """Calibration images, normalised ``(N, C, H, W)``, with their targets: the same ones each time the result is called.

    Args:
        artifact: for its input spec and preprocessing.
        task: whose calibration split.
        count: images, at most.
    """
    split, normalise = task.split("calibration"), Normalise.of(artifact.preprocessing)

    def batches() -> Iterator[tuple[Tensor, Any]]:
        pixels, targets = split.images(artifact.input_spec, artifact.preprocessing), split.targets
        taken = min(len(split), count)
        places = np.linspace(0, len(split) - 1, taken).round().astype(int)  # spread, as a split may be sorted by class
        count_of_batches = -(-taken // _BATCH)
        for first in range(count_of_batches):
            # of about equal size, and each spread over all: statistics of batches are averaged as if they were alike
            batch = places[first::count_of_batches]
            yield normalise(torch.from_numpy(np.array(pixels[batch]))), task.batch_targets(targets, batch, artifact.input_spec)

    return batches


def calibration_images(artifact: Artifact, task: Task, count: int, stage: Stage) -> Iterator[Tensor]:
    """The images of ``calibration_batches`` on the network's device; ``stage`` is told how many are done."""
    device = next(artifact.module.parameters()).device
    for images, _ in calibration_batches(artifact, task, count)():
        yield images.to(device)
        stage.advance(len(images))
