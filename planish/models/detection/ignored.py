"""Anchors and proposals that the losses of torchvision's detectors ignore: those in crowds and difficult objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import box_area

_INSIDE = 0.5  # share of a box's area within an ignored region from which on the box is ignored, as is usual for crowds


def ignored_boxes(boxes: Tensor, regions: Tensor, objects: Tensor) -> Tensor:
    """Which boxes are neither object nor background, bool ``(A,)``: at least half inside an ignored region, and overlapping no object.

    Args:
        boxes: anchors or proposals ``(A, 4)``.
        regions: ignored boxes ``(K, 4)``.
        objects: boxes of the objects ``(M, 4)``.
    """
    inside = _shared(boxes, regions) >= _INSIDE * box_area(boxes).clamp_min(1e-9)[:, None]
    ignored: Tensor = inside.any(1) & ~(_shared(boxes, objects) > 0).any(1)
    return ignored


class IgnoringProposals(RegionProposalNetwork):  # type: ignore[misc]
    """torchvision's region proposal network, except that anchors in ignored boxes are not trained as background."""

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for each, of_image, target in zip(labels, anchors, targets, strict=True):
            if "ignored_boxes" in target:
                ignored = ignored_boxes(of_image, target["ignored_boxes"], target["boxes"])
                each[(each == 0) & ignored] = -1.0  # ignored by the sampler
        return labels, boxes


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection areas, ``(A, B)``."""
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clamp_min(0).prod(2)
