"""Batches: in the order that was drawn, each image with its own target."""

from __future__ import annotations

import numpy as np

from planish.artifact import InputSpec
from planish.data.augmentation.operations import Operations
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


def test_alternating_flips_show_each_image_from_both_sides_in_two_epochs() -> None:
    ramp = np.arange(0, 256, 4, dtype=np.uint8)  # brighter from left to right, in images of 64 pixels
    images = np.broadcast_to(ramp[None, None, :, None], (40, 64, 64, 1))
    targets = np.arange(40)
    task, spec = Classification({}, tuple(map(str, range(40)))), InputSpec(1, 64, 64)

    def mirrored(settings: FitSettings, epoch: int) -> np.ndarray:
        seen = np.zeros(40, bool)
        for batch, wanted in batches(images, targets, spec, task, settings, epoch, ahead=False):
            seen[wanted.argmax(1) if wanted.ndim > 1 else wanted] = batch[:, 32, 20, 0] > batch[:, 32, 44, 0]
        return seen

    alternating = FitSettings(batch_size=8, alternating_flip=True)
    first, second, third = (mirrored(alternating, epoch) for epoch in (1, 2, 3))
    assert 8 < first.sum() < 32
    assert (first ^ second).all()
    assert (first == third).all()
    named = FitSettings(batch_size=8, alternating_flip=True, augmentation=Operations(brightness=0.1, flip=True))
    assert (mirrored(named, 1) ^ mirrored(named, 2)).all()
    at_random = FitSettings(batch_size=8)
    assert 0 < (mirrored(at_random, 1) ^ mirrored(at_random, 2)).sum() < 40
    for never in (
        FitSettings(batch_size=8, alternating_flip=True, flip=False),
        FitSettings(alternating_flip=True, augmentation="none"),
        FitSettings(batch_size=8, alternating_flip=True, augmentation=Operations(brightness=0.1)),
    ):
        assert not mirrored(never, 1).any()
        assert not mirrored(never, 2).any()
