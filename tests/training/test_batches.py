"""Batches: in the order that was drawn, each image with its own target."""

from __future__ import annotations

import numpy as np

from planish.artifact import InputSpec
from planish.tasks import Classification
from planish.training.batches import batches, order_of
from planish.training.settings import FitSettings

TASK = Classification({}, tuple("abcdefgh"))


def test_a_batch_keeps_the_order_that_was_drawn_so_that_mixup_pairs_classes() -> None:
    targets = np.repeat(np.arange(8), 32)  # as a folder of classes is read
    images = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 8, 8, 1))
    settings = FitSettings(batch_size=64, augmentation="none")
    made = list(batches(images, targets, InputSpec(1, 8, 8), TASK, settings, 1, ahead=False))
    seen = np.concatenate([batch[:, 0, 0, 0].numpy() for batch, _ in made])
    wanted = np.concatenate([given.numpy() for _, given in made])
    assert seen.tolist() == order_of(targets, 256, settings, 1).tolist()
    assert wanted.tolist() == targets[seen].tolist()
    alike = np.mean([float((given == given.roll(1)).float().mean()) for _, given in made])
    assert alike < 0.3, "neighbours are of one class as often as chance has it, an eighth"
