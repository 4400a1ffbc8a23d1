"""Images made of several images, with their boxes, masks and label maps: mosaic, mixup, copy-paste. Draws from torch's global generator."""

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

_CENTRE = (0.35, 0.65)  # where the four images of a mosaic meet, as a share of the sides
_PASTED = 0.5  # chance of each object of the other image


def mosaic(batch: ImageBatch, rows: Tensor, matrices: Callable[[int], Tensor]) -> ImageBatch:
    """Of each chosen image and three others of the batch, one image: a part of each, enlarged or shrunk so that it fills its corner.

    Four times as many objects in other surroundings, and smaller ones (Bochkovskiy et al. 2020, arXiv:2004.10934). Each of the four is
    moved by a matrix of its own in the same resampling.

    Args:
        batch: to draw from.
        rows: the chosen images, ``(K,)``.
        matrices: gives so many random matrices, ``(count, 3, 3)``.

    Returns:
        K images.
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
        first: of the images that were given, as ``Task.batch_targets`` has them.
        second: of those blended into them.
        weight: of the first, 0 to 1.
    """

    first: Any
    second: Any
    weight: float


def mixup(images: Tensor, targets: Any, alpha: float) -> tuple[Tensor, Mixed]:
    """Blend each image with the one before it, all by one weight from Beta(alpha, alpha), as ``torchvision.transforms.v2.MixUp`` does.

    H. Zhang et al., mixup: Beyond empirical risk minimization, 2018 (arXiv:1710.09412).

    Args:
        images: ``(N, C, H, W)``.
        targets: a tensor with N rows, or a list of N.
        alpha: above 0.

    Returns:
        float images, and targets of which ``mixed_loss`` takes the loss.
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample(()))
    values = images.float()
    others = targets.roll(1, 0) if isinstance(targets, Tensor) else [*targets[-1:], *targets[:-1]]
    return torch.lerp(values.roll(1, 0), values, weight), Mixed(targets, others, weight)


def mixed_loss(loss: Callable[[Any], Tensor], targets: Any) -> Tensor:
    """The loss of targets; of ``Mixed`` ones that of both, weighted as their images are."""
    if not isinstance(targets, Mixed):
        return loss(targets)
    return targets.weight * loss(targets.first) + (1 - targets.weight) * loss(targets.second)


def copy_paste(batch: ImageBatch, rows: Tensor) -> ImageBatch:
    """Put objects of another image of the batch on the chosen ones, where they are in theirs (Ghiasi et al. 2021, arXiv:2012.07177).

    What they cover is cut out of the masks behind them, boxes shrink to what is left, and objects hidden but for a quarter are gone.

    Args:
        batch: to draw from.
        rows: the chosen images, ``(K,)``.

    Returns:
        the whole batch.

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
    """Shrink images so that they fill a window at least, and show a random part there. ``(count, 3, 3)``."""
    top, left, tall, wide = window
    least = max(tall / height, wide / width)
    factor = torch.empty(count).uniform_(least, 1)
    room = (factor[:, None] * torch.tensor([width, height]) - torch.tensor([wide, tall])) / 2
    shift = torch.tensor([left + wide / 2 - width / 2, top + tall / 2 - height / 2]) + room * torch.empty(count, 2).uniform_(-1, 1)
    matrices = torch.diag_embed(torch.stack([factor, factor, torch.ones(count)], 1))
    matrices[:, :2, 2] = shift
    return matrices


def _partners(rows: Tensor, count: int) -> Tensor:
    """Another image for each."""
    return (rows + torch.randint(1, count, rows.shape)) % count
