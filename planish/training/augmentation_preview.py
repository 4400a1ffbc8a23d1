"""Preview of augmented training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from planish.data.augmentation.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from planish.artifact import Artifact
    from planish.task import Task
    from planish.training.settings import FitSettings

_IMAGES = 6


def augmentation_preview(artifact: Artifact, task: Task, settings: FitSettings) -> Image.Image:
    """A contact sheet of some training images, spread evenly over the training split and augmented as ``settings`` specify."""
    split = task.split("train")
    images, targets = split.images(artifact.input_spec, artifact.preprocessing), split.targets
    rows = np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(int))
    shown = images[rows]
    change, wanted = task.augment(artifact.input_spec, settings.augment_settings), task.batch_targets(targets, rows, artifact.input_spec)
    return contact_sheet(shown, lambda given, g: change(given, wanted, g)[0], torch.Generator().manual_seed(settings.seed))
