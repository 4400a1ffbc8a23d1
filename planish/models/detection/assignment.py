"""Which places of the maps learn which object: those whose class and box together suit it best.

C. Feng et al., TOOD: Task-aligned one-stage object detection, 2021 (arXiv:2108.07755).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planish.models.detection.boxes import iou

_PLACES = 10  # an object is learned at, at most
_SIDE = 4  # cells: a box around a place as it is before anything was learned
_SCORE_POWER, _IOU_POWER = 0.5, 6.0


@dataclass(frozen=True)
class Assigned:
    """For each place of each image, first axes ``(N, A)``.

    Args:
        positive: whether it learns an object.
        object: the number of it among the image's; 0 where there is none.
        boxes: to learn ``(N, A, 4)``.
        labels: to learn, 0 where there is none.
        weights: 0 to 1, how well the place suits its object as things are: what its class score shall be.
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
    """Assign.

    A box covers an object at least as well as a square of four cells around its place does: so early boxes, which are as good as drawn by
    lot, do not choose the places, nor keep the classes from being learned (in the spirit of S. Zhang et al., Bridging the gap between
    anchor-based and anchor-free detection, 2020, arXiv:1912.02424).

    Args:
        scores: probabilities as predicted ``(N, A, classes)``.
        boxes: as predicted ``(N, A, 4)``.
        centres: of the places ``(A, 2)``, x and y, normalized.
        cells: size of a place ``(A, 2)``.
        wanted_boxes: of the objects ``(N, M, 4)``, filled up.
        wanted_labels: ``(N, M)``, filled up with any class.
        there: False where filled up ``(N, M)``.
    """
    around = torch.cat([centres - _SIDE / 2 * cells, centres + _SIDE / 2 * cells], 1)
    overlaps, least = (iou(wanted_boxes.unsqueeze(2), each).clamp(0, 1) for each in (boxes.unsqueeze(1), around))  # (N, M, A)
    overlaps = torch.maximum(overlaps, least)
    chance = scores.gather(2, wanted_labels.unsqueeze(1).expand(-1, scores.shape[1], -1)).transpose(1, 2)
    x, y = centres[:, 0], centres[:, 1]
    left, top, right, bottom = wanted_boxes.unsqueeze(2).unbind(-1)
    inside = (x > left) & (x < right) & (y > top) & (y < bottom) & there.unsqueeze(2)
    # an object so small that no centre lies in it is learned at the nearest one
    middle = (wanted_boxes[..., :2] + wanted_boxes[..., 2:]) / 2
    nearest = torch.zeros_like(inside).scatter_(2, torch.cdist(middle, centres.expand(len(boxes), -1, -1)).argmin(2, keepdim=True), True)
    inside = inside | (nearest & ~inside.any(2, keepdim=True) & there.unsqueeze(2))
    suits = chance.clamp_min(1e-9) ** _SCORE_POWER * overlaps.clamp_min(1e-9) ** _IOU_POWER * inside
    best = suits.topk(min(_PLACES, suits.shape[2]), dim=2)
    chosen = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 0)
    # a place that several objects want learns the one it covers best
    owner = torch.where(chosen, overlaps, -1.0).argmax(1, keepdim=True)  # (N, 1, A)
    chosen = chosen & torch.zeros_like(chosen).scatter_(1, owner, True)
    positive, which = chosen.any(1), owner.squeeze(1)
    kept, covered = suits * chosen, overlaps * chosen
    # the best place of an object shall be as sure as its box is good, the others in proportion
    scaled = kept / kept.amax(2, keepdim=True).clamp_min(1e-12) * covered.amax(2, keepdim=True)
    return Assigned(
        positive,
        which,
        wanted_boxes.gather(1, which.unsqueeze(2).expand(-1, -1, 4)),
        torch.where(positive, wanted_labels.gather(1, which), 0),
        scaled.amax(1),
    )
