"""Boxes ``(..., 4)``: left, top, right, bottom, normalized to the image's sides."""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp_min(0) * (boxes[..., 3] - boxes[..., 1]).clamp_min(0)


def iou(a: Tensor, b: Tensor, *, generalised: bool = False) -> Tensor:
    """Intersection over union, of boxes that broadcast against one another.

    The generalised one takes off the share of the box around both that neither covers, so that boxes that do not meet know how far apart
    they are. Both are the same whatever units the axes have. H. Rezatofighi et al., 2019 (arXiv:1902.09630).
    """
    shared = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    union = (area(a) + area(b) - shared).clamp_min(1e-12)
    if not generalised:
        return shared / union
    around = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1)).clamp_min(1e-12)
    return shared / union - (around - union) / around
