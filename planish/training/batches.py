"""Shuffled or class-balanced, augmented batches, prepared in a background thread for devices other than the CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from planish.errors import TrainingError
from planish.training.parallel.processes import ALONE, Processes

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels
    from planish.task import Task
    from planish.training.settings import FitSettings

    Batch = tuple[torch.Tensor, Any]

_AHEAD = 2  # number of prefetched batches


def batches_per_epoch(images: int, batch_size: int, processes: int = 1) -> int:
    """The number of batches per epoch. A last batch of a single image (another one every epoch) is dropped: batch norm needs at least 2,
    and each process one."""
    whole, rest = divmod(images, batch_size)
    return whole + (rest >= max(2, processes))


def order_of(targets: Any, count: int, settings: FitSettings, epoch: int) -> npt.NDArray[np.int64]:
    """The image indices of one epoch in training order, int64 ``(count,)``; depends on seed and epoch only.

    The balanced sampler draws ``count / classes`` images of each class, rounded up or down: full passes over its images, then a random
    subset.

    Args:
        targets: one target per image.
        count: number of images.
        settings: sampler and seed.
        epoch: number of the epoch, from 1.

    Raises:
        TrainingError: the balanced sampler is used, and targets are not class indices.
    """
    rng = np.random.default_rng((settings.seed, epoch))
    if settings.sampler == "shuffled":
        return rng.permutation(count)
    labels = targets if isinstance(targets, np.ndarray) else np.empty((0, 0))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TrainingError("the balanced sampler was given targets without classes", "it needs one class an image", "use sampler=shuffled")
    _, sizes = np.unique(labels, return_counts=True)
    quotas = np.full(len(sizes), count // len(sizes))
    quotas[rng.permutation(len(sizes))[: count % len(sizes)]] += 1
    chosen = []
    for rows, quota in zip(np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1]), quotas, strict=True):
        rounds, rest = divmod(int(quota), len(rows))
        chosen += [np.tile(rows, rounds), rng.permutation(rows)[:rest]]
    return rng.permutation(np.concatenate(chosen))


def batches(
    images: Pixels,
    targets: Any,
    spec: InputSpec,
    task: Task,
    settings: FitSettings,
    epoch: int,
    *,
    ahead: bool,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """Yield the batches of one epoch: augmented images ``(N, H, W, C)`` in 0..255, uint8 or (after mixup) float32, and their targets.

    Order and augmentation depend on the seed, the epoch and the process only, so an epoch can be repeated without storing any random state.

    Args:
        images: uint8 ``(N, H, W, C)``, may be memory-mapped.
        targets: one target per image.
        spec: size of the images.
        task: augments images and targets together.
        settings: batch size, sampler, augmentation and seed.
        epoch: number of the epoch, from 1.
        ahead: whether to prepare batches in a thread while the device computes. Not for a CPU: training already keeps its cores busy, and
            augmentation uses torch's global random state, as dropout on the CPU does.
        processes: this process gets its share of each batch.
    """
    order = order_of(targets, len(images), settings, epoch)
    generator = torch.Generator().manual_seed(random_seed(settings.seed, epoch, processes.rank))
    wanted_changes = settings.augment_settings
    mirrored = np.zeros(len(images), bool)
    if settings.alternates_flips and isinstance(targets, np.ndarray):
        wanted_changes = replace(wanted_changes, flip=False)
        mirrored = (np.random.default_rng(settings.seed).random(len(images)) < 0.5) ^ (epoch % 2 == 0)
    change = task.augment(spec, wanted_changes)

    def make(number: int) -> Batch:
        chosen = order[number * settings.batch_size : (number + 1) * settings.batch_size][processes.rank :: processes.count]
        forward = np.argsort(chosen)  # read the disk in order, but keep the batch shuffled: sorted, mixup would pair images of one class
        pixels = np.empty((len(chosen), *images.shape[1:]), np.uint8)
        pixels[forward] = images[chosen[forward]]
        pixels[mirrored[chosen]] = pixels[mirrored[chosen]][:, :, ::-1]
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        batch, wanted = change(batch, task.batch_targets(targets, chosen, spec), generator)
        return batch.permute(0, 2, 3, 1), wanted

    count = batches_per_epoch(len(images), settings.batch_size, processes.count)
    yield from _in_background(make, count) if ahead else map(make, range(count))


def random_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of what is random in one epoch of one process."""
    return seed * 100_003 + epoch + rank * 1_000_000_007


def _in_background(make: Callable[[int], Batch], count: int) -> Iterator[Batch]:
    """Yield ``make(0) ... make(count - 1)`` computed in a thread; its errors are raised here, and leaving the loop early ends it."""
    ready: queue.Queue[Any] = queue.Queue(_AHEAD)
    stop = threading.Event()

    def work() -> None:
        try:
            for number in range(count):
                if stop.is_set():
                    return
                ready.put(make(number))
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, name="planish-batches", daemon=True)
    thread.start()
    try:
        for _ in range(count):
            made = ready.get()
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        stop.set()
        while thread.is_alive():  # it may be blocked by a full queue
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()
