"""Networks for tasks with places in the image, on the maps of a classifier."""

from __future__ import annotations

from torch import nn

from planish.artifact import Source
from planish.errors import ModelError
from planish.models.detection.detector import Detector
from planish.models.heads.segmentation import Segmenter

DETECTORS = ("detection", "instance")  # tasks of boxes
_SMALL = {"semantic": 96, "detection": 128, "instance": 128}  # pixels up to which fine maps learn more, and coarse ones are of few places
_FINE, _USUAL = (4, 8, 16), (8, 16, 32)


def strides_for(task: str, image_size: int, finest: int) -> tuple[int, ...]:
    """Strides of a pyramid's levels.

    Args:
        task: labels of pixels need fine maps.
        image_size: shorter side in pixels.
        finest: the finest stride that the backbone has among those of a pyramid.
    """
    if image_size <= _SMALL.get(task, 0):
        return _FINE
    if task == "semantic":
        return 4, 8, 16, 32
    return _FINE if finest < min(_USUAL) else _USUAL


def with_head(classifier: nn.Module, source: Source) -> nn.Module:
    """A detector or segmenter on a classifier, which is taken apart.

    Args:
        classifier: the backbone.
        source: with its task, strides and what else its head is made by.

    Raises:
        ModelError: there is no such task, or no maps can be taken from the classifier.
    """
    task, classes, channels, strides = source.task, source.num_classes, source.channels, source.strides
    if task in DETECTORS:
        return Detector(classifier, classes, channels, strides, bins=source.bins, detections=source.detections, masks=task == "instance")
    if task == "semantic":
        return Segmenter(classifier, classes, channels, strides)
    raise ModelError(f"there is no network for the task {task!r}", "tasks are classification, detection, instance and semantic")
