"""torchvision's detectors and segmenters by name, with methods ``loss`` and ``decode`` for their raw outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.ssd import SSD

from planish.errors import ModelError
from planish.models.detection.one_stage import OneStage
from planish.models.detection.two_stage import TwoStage
from planish.models.heads.segmentation import pixel_loss
from planish.models.heads.stem_and_classifier import set_input_channels
from planish.task import Kind, Reader, annotations_for

_WATCH_SIZE = 320  # SSD300's last maps do not exist at 224 pixels


def names(task: str) -> list[str]:
    """Names of torchvision's networks for a task; empty for tasks without a detection or segmentation head."""
    made = _MADE_FOR.get(annotations_for(task))
    return [] if made is None else made()


def has_head(name: str) -> bool:
    """Whether torchvision has a detector or segmenter of that name."""
    return any(name in made() for made in _MADE_FOR.values())


def _segmenters() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models.segmentation))


def _mask_detectors() -> list[str]:
    return [name for name in torchvision.models.list_models(module=torchvision.models.detection) if name.startswith("maskrcnn")]


def _detectors() -> list[str]:
    known = torchvision.models.list_models(module=torchvision.models.detection)
    return [name for name in known if not name.startswith(("maskrcnn", "keypoint"))]


_MADE_FOR: dict[Kind | Reader, Callable[[], list[str]]] = {"boxes": _detectors, "masks": _mask_detectors, "maps": _segmenters}


def build(name: str, num_classes: int, channels: int, detections: int) -> nn.Module:
    """Build a network without pretrained weights.

    Args:
        name: ``fcos_resnet50_fpn``, ``deeplabv3_mobilenet_v3_large``, ...
        num_classes: number of object classes, without background, or of pixel classes.
        channels: number of image channels.
        detections: number of detections that a detector returns per image.

    Raises:
        ModelError: the network does not detect boxes, or its first convolution cannot be changed to ``channels`` channels.
    """
    fresh: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if name in _segmenters():
        network = torchvision.models.get_model(name, num_classes=num_classes, aux_loss=None, **fresh)
        made: nn.Module = LabelMapSegmenter(network)
    else:
        # two-stage detectors and SSD have a background class, the others score each class independently
        background = name.startswith(("fasterrcnn", "maskrcnn", "ssd"))
        network = torchvision.models.get_model(name, num_classes=num_classes + background, **fresh)
        if not isinstance(network, FasterRCNN | SSD) and not hasattr(network, "head"):
            raise ModelError(f"{name} is no detector of boxes", f"there are {', '.join(_detectors())}")
        made = (TwoStage if isinstance(network, FasterRCNN) else OneStage)(network, num_classes, detections)
    if channels != 3:
        set_input_channels(network.backbone, channels, _WATCH_SIZE)
    return made


def normalisation(made: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations that torchvision's weights for a network from ``build`` expect, on the 0..1 scale.

    Those of ImageNet, except for SSD: SSD300 takes values of 0..255 less their mean, SSDLite -1..1.
    """
    transform: Any = getattr(made.model, "transform", None)
    if transform is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(transform.image_mean), tuple(transform.image_std)


class LabelMapSegmenter(nn.Module):
    """A semantic segmenter of torchvision. Raw output: logits ``(N, classes, H, W)`` at image size.

    Args:
        model: torchvision's network.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)["out"]
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, where the target 255 is ignored; a scalar."""
        return pixel_loss(outputs, targets)

    def decode(self, outputs: Tensor) -> dict[str, Tensor]:
        """The label map ``classes``, uint8 ``(N, H, W)``, and ``confidence``, the probability of each pixel's class."""
        confidence, classes = functional.softmax(outputs, 1).max(1)
        return {"classes": classes.to(torch.uint8), "confidence": confidence}
