"""Assignment of objects to locations of the feature maps, by how well class score and box match together.

C. Feng et al., TOOD: Task-aligned one-stage object detection, 2021 (arXiv:2108.07755).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planish.models.detection.boxes import iou

_PLACES = 10  # maximum number of positive locations per object
_SIDE = 4  # in cells: side of the square around a location that stands for an untrained prediction
_SCORE_POWER, _IOU_POWER = 0.5, 6.0


@dataclass(frozen=True)
class Assigned:
    """Training targets of each location of each image; the first axes are ``(N, A)``.

    Args:
        positive: whether an object is assigned to the location.
        object: index of the object within its image; 0 if there is none.
        boxes: target boxes ``(N, A, 4)``.
        labels: target classes; 0 if there is none.
        weights: target class scores from 0 to 1: how well the current prediction at the location matches its object.
    """

    positive: Tensor
    object: Tensor
    boxes: Tensor
    labels: Tensor
    weights: Tensor


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, centres: Tensor, cells: Tensor, wanted_boxes: Tensor, wanted_labels: Tensor, there: Tensor
) -> Assigned:
    """Assign objects to locations by the current predictions.

    The IoU of a prediction is taken to be at least that of a square of four cells around its location. So the practically random boxes of
    an untrained network neither decide the assignment nor keep the classes from being learned (in the spirit of S. Zhang et al., Bridging
    the gap between anchor-based and anchor-free detection, 2020, arXiv:1912.02424).

    Args:
        scores: predicted probabilities ``(N, A, classes)``.
        boxes: predicted boxes ``(N, A, 4)``.
        centres: centres of the locations ``(A, 2)``, normalized x and y.
        cells: normalized cell size of each location ``(A, 2)``.
        wanted_boxes: boxes of the objects ``(N, M, 4)``, padded.
        wanted_labels: classes of the objects ``(N, M)``, padded with any class.
        there: ``(N, M)``, False for padding.
    """
    around = torch.cat([centres - _SIDE / 2 * cells, centres + _SIDE / 2 * cells], 1)
    overlaps, least = (iou(wanted_boxes.unsqueeze(2), each).clamp(0, 1) for each in (boxes.unsqueeze(1), around))  # (N, M, A)
    overlaps = torch.maximum(overlaps, least)
    chance = scores.gather(2, wanted_labels.unsqueeze(1).expand(-1, scores.shape[1], -1)).transpose(1, 2)
    x, y = centres[:, 0], centres[:, 1]
    left, top, right, bottom = wanted_boxes.unsqueeze(2).unbind(-1)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom) & there.unsqueeze(2)
    # an object so small that it contains no centre is assigned to the nearest one
    middle = (wanted_boxes[..., :2] + wanted_boxes[..., 2:]) / 2
    nearest = torch.zeros_like(inside).scatter_(2, torch.cdist(middle, centres.expand(len(boxes), -1, -1)).argmin(2, keepdim=True), True)
    inside = inside | (nearest & ~inside.any(2, keepdim=True) & there.unsqueeze(2))
    suits = chance.clamp_min(1e-9) ** _SCORE_POWER * overlaps.clamp_min(1e-9) ** _IOU_POWER * inside
    best = suits.topk(min(_PLACES, suits.shape[2]), dim=2)
    chosen = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 0)
    # a location chosen for several objects gets the one with the largest IoU
    owner = torch.where(chosen, overlaps, -1.0).argmax(1, keepdim=True)  # (N, 1, A)
    chosen = chosen & torch.zeros_like(chosen).scatter_(1, owner, True)
    positive, which = chosen.any(1), owner.squeeze(1)
    kept, covered = suits * chosen, overlaps * chosen
    # the target score of an object's best location is the object's best IoU, those of the others are in proportion to their alignment
    most = kept.amax(2, keepdim=True)  # tiny for a tiny object, as it holds the sixth power of its IoU
    scaled = kept / most.clamp_min(torch.finfo(most.dtype).tiny) * covered.amax(2, keepdim=True)
    return Assigned(
        positive,
        which,
        wanted_boxes.gather(1, which.unsqueeze(2).expand(-1, -1, 4)),
        torch.where(positive, wanted_labels.gather(1, which), 0),
        scaled.amax(1),
    )
