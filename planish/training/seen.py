"""What a network is shown of its images in a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from planish.data.augmentation import augment, mixup_cutmix
from planish.data.contact_sheet import contact_sheet

if TYPE_CHECKING:
    from planish.artifact import Artifact
    from planish.task import Task
    from planish.training.settings import FitSettings

_IMAGES = 6


def what_it_sees(artifact: Artifact, task: Task, settings: FitSettings) -> Image.Image:
    """A contact sheet of some training images, spread evenly over the split, as ``settings`` augment and mix them."""
    images = task.split("train").images(artifact.input_spec, artifact.preprocessing)
    shown = images[np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(int))]
    mixes = settings.mixup_alpha or settings.cutmix_alpha
    mix = mixup_cutmix(len(task.class_names), settings.mixup_alpha, settings.cutmix_alpha) if mixes else None
    change = augment(artifact.input_spec, settings.augmentation, settings.flip)
    return contact_sheet(shown, change, torch.Generator().manual_seed(settings.seed), mix=mix)
