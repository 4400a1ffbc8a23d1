"""Losses of the detector: classification with IoU-aware target scores, generalised IoU and distance distributions of boxes, and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from planish.models.detection.assignment import Assigned
from planish.models.detection.boxes import iou

_CLASSES, _OVERLAP, _SIDES = 1.0, 2.0, 0.5


def detection_loss(
    logits: Tensor, sides: Tensor, boxes: Tensor, centres: Tensor, cells: Tensor, assigned: Assigned, ignored: Tensor | None = None
) -> Tensor:
    """The loss of classes and boxes, a scalar, normalised by the sum of the weights of all positive locations.

    Args:
        logits: class logits ``(N, A, classes)``.
        sides: distance logits ``(N, A, 4, bins)``.
        boxes: boxes decoded from ``sides`` ``(N, A, 4)``.
        centres: centres of the locations ``(A, 2)``.
        cells: cell size of each location ``(A, 2)``.
        assigned: targets of the locations.
        ignored: bool ``(N, A, classes)``, classes for which a location is not trained as background; None if there are none.
    """
    sure = functional.one_hot(assigned.labels, logits.shape[2]).to(logits.dtype) * (assigned.weights * assigned.positive).unsqueeze(2)
    whole = sure.sum().clamp_min(1.0)
    # background is weighted by the predicted probability (varifocal loss: H. Zhang et al. 2021, arXiv:2008.13367); at positive locations
    # all classes have full weight, as the network would otherwise learn last to tell the classes apart
    weight = torch.where((sure > 0).any(2, keepdim=True), 1.0, 0.75 * logits.detach().sigmoid() ** 2)
    if ignored is not None:
        weight = torch.where(ignored & (sure == 0), 0.0, weight)
    classes = (weight * functional.binary_cross_entropy_with_logits(logits, sure, reduction="none")).sum() / whole
    at = assigned.positive
    if not bool(at.any()):
        return _CLASSES * classes + 0.0 * sides.sum()
    weights = assigned.weights[at]
    overlap = (weights * (1 - iou(boxes[at], assigned.boxes[at], generalised=True))).sum() / whole
    at_centres, at_cells = (values.expand(len(boxes), -1, -1)[at] for values in (centres, cells))
    reach = torch.cat([(at_centres - assigned.boxes[at][:, :2]) / at_cells, (assigned.boxes[at][:, 2:] - at_centres) / at_cells], 1)
    distances = distance_loss(sides[at], reach)
    return _CLASSES * classes + _OVERLAP * overlap + _SIDES * (weights * distances).sum() / whole


def ignored_places(targets: Sequence[dict[str, Tensor]], centres: Tensor, cells: Tensor, num_classes: int) -> Tensor | None:
    """Locations that are not trained as background of a class, as they lie in crowds or difficult objects of it.

    Args:
        targets: targets of each image, some with ``ignored_boxes`` ``(K, 4)`` and ``ignored_labels`` ``(K,)``.
        centres: centres of the locations ``(A, 2)``.
        cells: cell size of each location ``(A, 2)``.
        num_classes: number of object classes.

    Returns:
        Bool ``(N, A, classes)``: whether the location's cell overlaps an ignored box of that class; None if nothing is ignored.
    """
    if not any(len(t.get("ignored_labels", ())) for t in targets):
        return None
    result = torch.zeros(len(targets), len(centres), num_classes, dtype=torch.bool, device=centres.device)
    low, high = centres - cells / 2, centres + cells / 2
    for row, target in enumerate(targets):
        for box, label in zip(target.get("ignored_boxes", ()), target.get("ignored_labels", ()), strict=True):
            result[row, :, label] |= ((high > box[:2]) & (low < box[2:])).all(1)
    return result


def distance_loss(sides: Tensor, reach: Tensor) -> Tensor:
    """Distribution focal loss: cross-entropy with the two integer distances around each target, weighted by proximity; the mean over the
    four sides ``(P,)``.

    X. Li et al., Generalized focal loss, 2020 (arXiv:2006.04388).

    Args:
        sides: distance logits ``(P, 4, bins)``.
        reach: target distances ``(P, 4)``, in cells.
    """
    bins = sides.shape[2]
    reach = reach.clamp(0, bins - 1 - 1e-3)
    below = reach.floor()
    share, lower = reach - below, below.long()
    logs = functional.log_softmax(sides, 2)
    near, far = (-logs.gather(2, index.unsqueeze(2)).squeeze(2) for index in (lower, lower + 1))
    return (near * (1 - share) + far * share).mean(1)


def mask_loss(masks: Tensor, wanted: Tensor, boxes: Tensor) -> Tensor:
    """Sum of binary cross-entropy and Dice loss of each mask within its box ``(P,)``.

    Args:
        masks: logits ``(P, h, w)``.
        wanted: target masks of 0 and 1 ``(P, h, w)``.
        boxes: boxes of the objects ``(P, 4)``.
    """
    inside = within(boxes, masks.shape[1], masks.shape[2])
    area = inside.sum((1, 2)).clamp_min(1.0)
    entropy = (functional.binary_cross_entropy_with_logits(masks, wanted, reduction="none") * inside).sum((1, 2)) / area
    predicted = masks.sigmoid() * inside
    dice = 1 - (2 * (predicted * wanted).sum((1, 2)) + 1) / (predicted.sum((1, 2)) + (wanted * inside).sum((1, 2)) + 1)
    return entropy + dice


def within(boxes: Tensor, height: int, width: int) -> Tensor:
    """A map ``(..., height, width)`` that is 1 at pixels whose centre lies in the box and 0 elsewhere; boxes ``(..., 4)``."""
    y, x = ((torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5) / n for n in (height, width))
    left, top, right, bottom = boxes.unsqueeze(-1).unsqueeze(-1).unbind(-3)
    y, x = y.view(-1, 1), x.view(1, -1)
    # comparing rows and columns separately is cheap; only their product has the size of the map
    rows, columns = ((low <= place) & (place <= high) for low, place, high in ((top, y, bottom), (left, x, right)))
    return rows.to(boxes.dtype) * columns.to(boxes.dtype)
