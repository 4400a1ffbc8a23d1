"""Mosaic, mixup and copy-paste of images with boxes, masks and label maps, using PyTorch's global random generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from planish.data.targets.geometry import ImageBatch, covered, joined
from planish.data.targets.mask_geometry import scaled_window
from planish.errors import TrainingError

_CENTRE = (0.35, 0.65)  # range of the point where the four images of a mosaic meet, as a fraction of the sides
_PASTED = 0.5  # probability that an object of the other image is pasted


def mosaic(batch: ImageBatch, rows: Tensor, matrices: Callable[[int], Tensor]) -> ImageBatch:
    """Combine each chosen image with three random images of the batch: a part of each, resized so that it fills its quadrant.

    This yields more and smaller objects, in other contexts (Bochkovskiy et al. 2020, arXiv:2004.10934). Each of the four is also
    transformed by a random matrix of its own, in the same resampling.

    Args:
        batch: the batch that images are taken from.
        rows: indices of the chosen images, ``(K,)``.
        matrices: returns the requested number of random matrices, ``(count, 3, 3)``.

    Returns:
        A batch of K mosaics.
    """
    count, (height, width) = len(rows), batch.images.shape[2:]
    others = torch.randint(len(batch.images), (count, 3))
    sources = torch.cat([rows[:, None], others], 1).gather(1, torch.rand(count, 4).argsort(1))
    y, x = (round(side * float(torch.empty(()).uniform_(*_CENTRE))) for side in (height, width))
    images = batch.images.new_zeros(count, *batch.images.shape[1:])
    maps = None if batch.maps is None else batch.maps.new_zeros(count, *batch.maps.shape[1:])
    objects = []
    corners = ((0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x), (y, x, height - y, width - x))
    for source, window in zip(sources.T, corners, strict=True):
        part = batch.taken(source).moved(_into(window, height, width, count) @ matrices(count), window=window)
        top, left, tall, wide = window
        images[:, :, top : top + tall, left : left + wide] = part.images
        if maps is not None and part.maps is not None:
            top, left, tall, wide = scaled_window(window, maps.shape[2] / width, maps.shape[1] / height)
            maps[:, top : top + tall, left : left + wide] = part.maps
        if part.objects is not None:
            objects.append(part.objects)
    return ImageBatch(images, joined(objects) if objects else None, maps)


class Mixed(NamedTuple):
    """Targets of images that were blended in pairs.

    Args:
        first: targets of the original images, as returned by ``Task.batch_targets``.
        second: targets of the images blended into them.
        weight: weight of the first, 0 to 1.
    """

    first: Any
    second: Any
    weight: float


def mixup(images: Tensor, targets: Any, alpha: float) -> tuple[Tensor, Mixed]:
    """Blend each image with the previous one, with one weight per batch from Beta(alpha, alpha), like ``torchvision.transforms.v2.MixUp``.

    H. Zhang et al., mixup: Beyond empirical risk minimization, 2018 (arXiv:1710.09412).

    Args:
        images: ``(N, C, H, W)``.
        targets: a tensor with N rows, or a list of N.
        alpha: parameter of the beta distribution, above 0.

    Returns:
        Float images, and targets for ``mixed_loss``.
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample(()))
    values = images.float()
    others = targets.roll(1, 0) if isinstance(targets, Tensor) else [*targets[-1:], *targets[:-1]]
    return torch.lerp(values.roll(1, 0), values, weight), Mixed(targets, others, weight)


def mixed_loss(loss: Callable[[Any], Tensor], targets: Any) -> Tensor:
    """Compute the loss of targets; for ``Mixed`` targets, the weighted mean of the losses of both."""
    if not isinstance(targets, Mixed):
        return loss(targets)
    return targets.weight * loss(targets.first) + (1 - targets.weight) * loss(targets.second)


def copy_paste(batch: ImageBatch, rows: Tensor) -> ImageBatch:
    """Paste objects of other images of the batch into the chosen ones, at the same position (Ghiasi et al. 2021, arXiv:2012.07177).

    Occluded pixels are removed from the masks behind, boxes shrink to what remains, and objects of which less than a quarter remains are
    dropped.

    Args:
        batch: the batch.
        rows: indices of the images to paste into, ``(K,)``.

    Returns:
        The whole batch.

    Raises:
        TrainingError: there are no masks.
    """
    old = batch.objects
    if old is None or old.masks is None:
        raise TrainingError("copy-paste without masks", "objects are cut out along their masks", "use copy_paste=0")
    if len(batch.images) == 1:
        return batch
    partners = _partners(rows, len(batch.images))
    new = old.taken(partners)
    chosen = torch.rand(len(new.labels)) < _PASTED
    new = new.kept(chosen if new.ignored is None else chosen & ~new.ignored)
    if new.masks is None or not len(new.labels):
        return batch
    (height, width), size = batch.images.shape[2:], new.masks.shape[1:]
    hidden = torch.zeros(len(batch.images), *size, dtype=torch.int32)
    hidden.index_add_(0, rows[new.image], new.masks.int())
    hidden = hidden.clamp_(max=1).to(torch.uint8)
    images = batch.images.clone()
    front = functional.interpolate(hidden[rows, None].float(), (height, width), mode="nearest-exact").to(images)
    images[rows] = torch.lerp(batch.images[rows], batch.images[partners], front)
    behind = covered(old, hidden, height, width)
    return replace(batch, images=images, objects=joined([behind, new], [torch.arange(len(images)), rows], len(images)))


def _into(window: tuple[int, int, int, int], height: int, width: int, count: int) -> Tensor:
    """Random matrices that shrink images, at most until they just fill a window, and put a random part of each there, ``(count, 3, 3)``."""
    top, left, tall, wide = window
    least = max(tall / height, wide / width)
    factor = torch.empty(count).uniform_(least, 1)
    room = (factor[:, None] * torch.tensor([width, height]) - torch.tensor([wide, tall])) / 2
    shift = torch.tensor([left + wide / 2 - width / 2, top + tall / 2 - height / 2]) + room * torch.empty(count, 2).uniform_(-1, 1)
    matrices = torch.diag_embed(torch.stack([factor, factor, torch.ones(count)], 1))
    matrices[:, :2, 2] = shift
    return matrices


def _partners(rows: Tensor, count: int) -> Tensor:
    """A random other image for each row."""
    return (rows + torch.randint(1, count, rows.shape)) % count
