"""Decoding of raw maps into the most confident boxes of each image, with operators that every runtime has and for any batch size."""

from __future__ import annotations

import torch
from torch import Tensor

_CANDIDATES, _EVERY = 3, 8  # at most 3 candidates per returned box, and an eighth of the locations
_ROUNDS = 8
_SAME = 0.6  # IoU threshold of non-maximum suppression


def centres_of(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of a map's locations ``(locations, 2)``, x and y, and the size of a cell ``(2,)``, all normalized."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in (height, width))
    grid = torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)
    return grid, torch.tensor([1 / width, 1 / height], dtype=like.dtype, device=like.device)


def boxes_of(sides: Tensor, centres: Tensor, cells: Tensor) -> Tensor:
    """Boxes ``(N, A, 4)`` from predicted distributions of distances.

    Args:
        sides: logits ``(N, A, 4, bins)`` of the distances 0, 1, ... cells from the location to the box's left, top, right and bottom side
            (X. Li et al., Generalized focal loss, 2020, arXiv:2006.04388).
        centres: centres of the locations ``(A, 2)``.
        cells: cell size of each location ``(A, 2)``.
    """
    steps = torch.arange(sides.shape[3], dtype=sides.dtype, device=sides.device)
    reach = (sides.softmax(3) * steps).sum(3)
    return torch.cat([centres - reach[..., :2] * cells, centres + reach[..., 2:] * cells], 2)


def keep_best(boxes: Tensor, scores: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most confident boxes after non-maximum suppression, see ``candidates`` and ``suppress``.

    Args:
        boxes: predicted boxes ``(N, A, 4)``.
        scores: probabilities ``(N, A, classes)``.
        kept: number of boxes to return per image, at most the number of locations.

    Returns:
        Boxes clipped to the image ``(N, kept, 4)``; scores ``(N, kept)`` in descending order, 0 for suppressed boxes; labels, int64.
    """
    places, scores, labels = candidates(scores.transpose(1, 2), kept)
    boxes, scores, labels = suppress(_rows(boxes, places), scores, labels, kept=kept)
    return boxes, scores, labels


def candidates(scores: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most confident pairs of location and class, in descending order: indices of locations, scores and classes, ``(N, K)`` each.

    A location may be a candidate for several classes, as in torchvision: if two classes are about equally likely, both are returned.

    Args:
        scores: scores ``(N, classes, A)`` on any scale.
        kept: number of boxes that are returned after suppression.
    """
    classes, places = scores.shape[1:]
    count = min(places, max(kept, min(_CANDIDATES * kept, places // _EVERY)))
    surest = scores.amax(1).topk(count, dim=1).indices  # the best pairs are at the locations with the best scores
    pairs = scores.gather(2, surest.unsqueeze(1).expand(-1, classes, -1)).flatten(1)
    scores, which = pairs.topk(count, dim=1)
    labels, column = (torch.arange(n, device=scores.device) for n in (classes, count))
    at, label = (every[which] for every in (column.repeat(classes), labels.repeat_interleave(count)))
    return surest.gather(1, at), scores, label


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, *more: Tensor, kept: int) -> tuple[Tensor, ...]:
    """Non-maximum suppression within each class, as a fixed number of tensor operations.

    A box is suppressed if a kept box of its class has a higher score and overlaps it by more than the IoU threshold. Each round decides all
    boxes by the result of the round before. The result is exact after as many rounds as the longest chain of boxes that suppress one
    another; in practice such chains are short.

    Args:
        boxes: ``(N, K, 4)``, in descending order of scores.
        scores: probabilities ``(N, K)``, descending.
        labels: classes ``(N, K)``.
        more: further values of each box ``(N, K, values)``.
        kept: maximum number of boxes to return.

    Returns:
        Boxes clipped to the image, scores, labels and ``more`` of the kept boxes; if they are fewer, suppressed ones with score 0 follow.
    """
    count = scores.shape[1]
    same = (_overlaps(boxes) > _SAME) & (labels.unsqueeze(2) == labels.unsqueeze(1))
    surer = torch.tril(torch.ones(count, count, dtype=scores.dtype, device=scores.device), -1)
    rivals = same.to(scores.dtype) * surer  # (N, box, overlapping box of its class with a higher score)
    stays = torch.ones_like(scores)
    for _ in range(_ROUNDS):
        stays = 1 - (rivals * stays.unsqueeze(1)).amax(2)
    scores, last = (scores * stays).topk(min(kept, count), dim=1)
    return _rows(boxes, last).clamp(0, 1), scores, labels.gather(1, last), *(_rows(values, last) for values in more)


def _overlaps(boxes: Tensor) -> Tensor:
    """Pairwise IoU of the boxes of an image ``(N, A, A)``; computed on separate coordinates, which is faster in runtimes."""
    left, top, right, bottom = boxes.unbind(2)

    def shared(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - torch.maximum(low.unsqueeze(2), low.unsqueeze(1))
        return ends.clamp_min(0)

    both, each = shared(left, right) * shared(top, bottom), (right - left) * (bottom - top)
    return both / (each.unsqueeze(2) + each.unsqueeze(1) - both).clamp_min(1e-12)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return values.gather(1, rows.unsqueeze(2).expand(-1, -1, values.shape[2]))
