"""Speed of the input pipeline, and whether it slows down training."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from planish.data.augmentation.operations import Operations
from planish.data.augmentation.policy import Augmentation, augment
from planish.data.cache.images import ImagesOnDemand
from planish.decisions import decide
from planish.devices.machine import cpu_model
from planish.evaluation.statistics.intervals import bootstrap_mean
from planish.measurement import Measurement
from planish.progress import note
from planish.training.batches import batches

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels
    from planish.task import Task
    from planish.training.settings import FitSettings

T = TypeVar("T")

_WORTH_TELLING = 0.2  # share of the training time from which on slow batches are reported
_REPEATS = 3  # timings, of which the fastest counts


class Waiting:
    """Measures the total time that a loop waits for its next item: ``for batch in waiting.on(batches)``.

    Attributes:
        seconds: total waiting time so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and add up the time until each is available."""
        begun = time.perf_counter()
        for item in items:
            self.seconds += time.perf_counter() - begun
            yield item
            begun = time.perf_counter()


def input_rate(images: Pixels, targets: Any, spec: InputSpec, task: Task, settings: FitSettings, *, seconds: float = 1.0) -> Measurement:
    """Measure the throughput of the input pipeline alone (reading, augmenting and mixing), in images per second.

    Args:
        images: uint8 ``(N, H, W, C)``, may be memory-mapped.
        targets: one target per image.
        spec: size of the images.
        task: augments images and targets.
        settings: batch size, augmentation and seed.
        seconds: duration of the measurement, after one untimed batch; at least two batches are timed.
    """
    endless = (batch for epoch in itertools.count(1) for batch in batches(images, targets, spec, task, settings, epoch, ahead=False))
    next(endless)
    each: list[float] = []  # seconds per image, one entry per batch
    count, end = 0, time.perf_counter() + seconds
    while len(each) < 2 or time.perf_counter() < end:
        begun = time.perf_counter()
        made = len(next(endless)[0])
        each.append((time.perf_counter() - begun) / made)
        count += made
    mean = bootstrap_mean(each)
    return Measurement("input_rate", 1 / mean.value, "images/s", count, True, 1 / mean.high, 1 / mean.low, device=cpu_model())


def input_finding(making: float, whole: float, costliest: str = "") -> str:
    """A message if more than a fifth of the training time is spent on making batches; empty otherwise.

    Args:
        making: seconds spent on making batches, in total or per image (1 / ``input_rate``).
        whole: seconds for batches and training steps together, in total or per image.
        costliest: result of ``costliest_operation``, to be included in the message.
    """
    if making <= _WORTH_TELLING * whole:
        return ""
    text = f"making batches takes {100 * making / whole:.0f} % of the training time"
    return f"{text}; the costliest augmentation is {costliest}" if costliest else text


def costliest_operation(images: Pixels, spec: InputSpec, augmentation: Augmentation, flip: bool = True) -> str:
    """The slowest augmentation operation on a batch and its time: ``blur, 3.1 ms for 64 images``; empty without augmentation.

    Args:
        images: uint8 ``(N, H, W, C)``, one batch.
        spec: size of the images.
        augmentation: augmentation of the training; a strength (such as ``light``) counts as one operation.
        flip: see ``augment``.
    """
    batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    parts: dict[str, Augmentation] = {}
    if isinstance(augmentation, Operations):
        parts = {name: Operations(**{name: getattr(augmentation, name)}) for name in augmentation.on}
    elif augmentation != "none":
        parts = {augmentation: augmentation}
    if not parts:
        return ""
    took = {name: _seconds(batch, spec, part, flip) for name, part in parts.items()}
    name = max(took, key=lambda name: took[name])
    return f"{name}, {1000 * took[name]:.1f} ms for {len(batch)} images"


def notes_on_input_speed(making: float, whole: float, images: Pixels, spec: InputSpec, settings: FitSettings) -> list[str]:
    """Report ``input_finding`` with the costliest operation if batches slow down training. It is determined once per run and augmentation,
    as a search trains dozens of networks on the same batches.

    Args:
        making: seconds spent on making batches.
        whole: seconds of the epoch, without validation.
        images: training images.
        spec: size of the images.
        settings: batch size and augmentation.

    Returns:
        The messages that were reported.
    """

    def finding() -> str:
        if not input_finding(making, whole):
            return ""
        costliest = costliest_operation(images[: settings.batch_size], spec, settings.augmentation, settings.flip)
        decoding = "; images do not fit in the cache and are decoded for each batch" * isinstance(images, ImagesOnDemand)
        return input_finding(making, whole, costliest) + decoding

    found = str(decide(f"input speed: {settings.augmentation}"[:200], finding))
    if found:
        note(found)
    return [found] if found else []


def _seconds(batch: torch.Tensor, spec: InputSpec, augmentation: Augmentation, flip: bool) -> float:
    change, generator = augment(spec, augmentation, flip), torch.Generator().manual_seed(0)
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        change(batch, generator)
        times.append(time.perf_counter() - begun)
    return min(times)
