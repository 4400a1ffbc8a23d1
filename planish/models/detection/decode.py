"""From raw maps to the most confident boxes of an image, in operations that every runtime has, for any number of images."""

from __future__ import annotations

import torch
from torch import Tensor

_CANDIDATES, _EVERY = 3, 8  # for a box that is returned, at most; and as many as an eighth of the places
_ROUNDS = 8
_SAME = 0.6  # overlap from which on the less sure of two boxes of a class is taken for the same object


def centres_of(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of a map's places: their centres ``(places, 2)``, x and y, and the size of one ``(2,)``, all normalized."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in (height, width))
    grid = torch.stack([x.repeat(height), y.repeat_interleave(width)], 1)
    return grid, torch.tensor([1 / width, 1 / height], dtype=like.dtype, device=like.device)


def boxes_of(sides: Tensor, centres: Tensor, cells: Tensor) -> Tensor:
    """Boxes ``(N, A, 4)``.

    Args:
        sides: how likely each distance from the place to the box's left, top, right and bottom is, ``(N, A, 4, bins)``: logits of 0, 1, ...
            places (X. Li et al., Generalized focal loss, 2020, arXiv:2006.04388).
        centres: ``(A, 2)``.
        cells: size of a place ``(A, 2)``.
    """
    steps = torch.arange(sides.shape[3], dtype=sides.dtype, device=sides.device)
    reach = (sides.softmax(3) * steps).sum(3)
    return torch.cat([centres - reach[..., :2] * cells, centres + reach[..., 2:] * cells], 2)


def keep_best(boxes: Tensor, scores: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The surest boxes, see ``candidates`` and ``suppress``.

    Args:
        boxes: ``(N, A, 4)``.
        scores: probabilities ``(N, A, classes)``.
        kept: boxes returned of an image, where there are so many places.

    Returns:
        Boxes within the image ``(N, kept, 4)``; scores, falling ``(N, kept)``, 0 for none; labels, int64.
    """
    places, scores, labels = candidates(scores.transpose(1, 2), kept)
    boxes, scores, labels = suppress(_rows(boxes, places), scores, labels, kept=kept)
    return boxes, scores, labels


def candidates(scores: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """The surest pairs of a place and a class, falling: numbers of the places, scores and classes, ``(N, K)`` each.

    A place may be a candidate for several classes, as in torchvision: where two are about as likely, both are worth telling.

    Args:
        scores: ``(N, classes, A)``, of whatever scale.
        kept: boxes that are returned in the end.
    """
    classes, places = scores.shape[1:]
    count = min(places, max(kept, min(_CANDIDATES * kept, places // _EVERY)))
    surest = scores.amax(1).topk(count, dim=1).indices  # the surest pairs are at the surest places
    pairs = scores.gather(2, surest.unsqueeze(1).expand(-1, classes, -1)).flatten(1)
    scores, which = pairs.topk(count, dim=1)
    labels, column = (torch.arange(n, device=scores.device) for n in (classes, count))
    at, label = (every[which] for every in (column.repeat(classes), labels.repeat_interleave(count)))
    return surest.gather(1, at), scores, label


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, *more: Tensor, kept: int) -> tuple[Tensor, ...]:
    """Non-maximum suppression within each class: the surest box stays, and those of its class that cover the same go, and so on.

    A box goes if one that stays is surer, of its class, and covers the same. Each round decides all boxes on the round before; after as
    many rounds as the longest chain of boxes that hang on one another nothing changes any more, and chains are of a few.

    Args:
        boxes: ``(N, K, 4)``, the surest first.
        scores: probabilities ``(N, K)``, falling.
        labels: ``(N, K)``.
        more: of each box ``(N, K, values)``.
        kept: how many are returned, at most.

    Returns:
        Of those that stay boxes within the image, scores, labels, and ``more``; the score of the others is 0.
    """
    count = scores.shape[1]
    same = (_overlaps(boxes) > _SAME) & (labels.unsqueeze(2) == labels.unsqueeze(1))
    surer = torch.tril(torch.ones(count, count, dtype=scores.dtype, device=scores.device), -1)
    rivals = same.to(scores.dtype) * surer  # (N, box, surer box of its class that covers the same)
    stays = torch.ones_like(scores)
    for _ in range(_ROUNDS):
        stays = 1 - (rivals * stays.unsqueeze(1)).amax(2)
    scores, last = (scores * stays).topk(min(kept, count), dim=1)
    return _rows(boxes, last).clamp(0, 1), scores, labels.gather(1, last), *(_rows(values, last) for values in more)


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of each two boxes of an image ``(N, A, A)``; sides apart, which runtimes compute faster than in fours."""
    left, top, right, bottom = boxes.unbind(2)

    def shared(low: Tensor, high: Tensor) -> Tensor:
        ends = torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - torch.maximum(low.unsqueeze(2), low.unsqueeze(1))
        return ends.clamp_min(0)

    both, each = shared(left, right) * shared(top, bottom), (right - left) * (bottom - top)
    return both / (each.unsqueeze(2) + each.unsqueeze(1) - both).clamp_min(1e-12)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return values.gather(1, rows.unsqueeze(2).expand(-1, -1, values.shape[2]))
