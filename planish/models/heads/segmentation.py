"""Semantic segmentation from the finest map of a feature pyramid, upsampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from planish.models.heads.backbone import Backbone, conv_block
from planish.models.heads.pyramid import Pyramid

IGNORED = 255


class Segmenter(nn.Module):
    """A semantic segmenter. Raw output: logits ``(N, classes, h, w)`` at the finest stride.

    Args:
        classifier: the backbone, with its weights.
        num_classes: number of pixel classes.
        channels: number of image channels.
        strides: strides of the pyramid's levels.
        width: channels of the pyramid.
    """

    def __init__(self, classifier: nn.Module, num_classes: int, channels: int, strides: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        self.backbone = Backbone(classifier, channels, strides)
        self.pyramid = Pyramid(self.backbone.widths, width, upward=False)
        self.head = nn.Sequential(conv_block(width, width), nn.Conv2d(width, num_classes, 1))
        self.stride = min(strides)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pyramid(self.backbone(x))[0])
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy at the size of the targets, int64 ``(N, H, W)``, where 255 is ignored; a scalar."""
        return pixel_loss(outputs, targets)

    def decode(self, outputs: Tensor) -> dict[str, Tensor]:
        """The label map ``classes``, uint8 ``(N, H, W)``, and ``confidence``, the probability of each pixel's class, at image size."""
        larger = functional.interpolate(outputs, scale_factor=float(self.stride), mode="bilinear")
        confidence, classes = larger.softmax(1).max(1)
        return {"classes": classes.to(torch.uint8), "confidence": confidence}


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits ``(N, classes, h, w)``, upsampled to the size of the targets ``(N, H, W)``; 255 is ignored; a scalar."""
    if logits.shape[2:] != targets.shape[1:]:
        logits = functional.interpolate(logits, targets.shape[1:], mode="bilinear")
    wanted = (targets != IGNORED).sum().clamp_min(1)
    return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / wanted
