"""Area and IoU of normalized xyxy boxes ``(..., 4)``."""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp_min(0) * (boxes[..., 3] - boxes[..., 1]).clamp_min(0)


def iou(a: Tensor, b: Tensor, *, generalised: bool = False) -> Tensor:
    """Intersection over union of boxes that broadcast against one another.

    The generalised IoU subtracts the share of the enclosing box that neither box covers, so that it also measures how far apart boxes are
    that do not overlap. Both are invariant to the scale of either axis. H. Rezatofighi et al., 2019 (arXiv:1902.09630).
    """
    shared = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    union = (area(a) + area(b) - shared).clamp_min(1e-12)
    if not generalised:
        return shared / union
    around = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1)).clamp_min(1e-12)
    return shared / union - (around - union) / around
