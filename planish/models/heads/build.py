"""Networks for detection, instance and semantic segmentation, built on the feature maps of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from planish.artifact import Source
from planish.errors import DataError, ModelError
from planish.models.detection.detector import Detector
from planish.models.heads.segmentation import Segmenter
from planish.task import Kind, Reader, annotations_for

_FINE, _USUAL = (4, 8, 16), (8, 16, 32)


@dataclass(frozen=True)
class Head:
    """A head for one kind of task, on the feature maps of a classifier.

    Args:
        build: builds the network from the classifier and a ``Source``; the classifier is reused as the backbone.
        small: image size in pixels up to which finer levels are used, as coarse maps would have too few locations.
        strides: strides of the levels for larger images; empty to choose them by the backbone.
        boxes: whether the head predicts boxes, so that its levels must suit the box sizes.
        masks: whether the head also predicts a mask for each box.
    """

    build: Callable[[nn.Module, Source], nn.Module]
    small: int
    strides: tuple[int, ...] = ()
    boxes: bool = False
    masks: bool = False

    def strides_for(self, image_size: int, finest: int) -> tuple[int, ...]:
        """The strides of the head's levels.

        Args:
            image_size: shorter side in pixels.
            finest: the backbone's finest stride that a pyramid can start from.
        """
        if image_size <= self.small:
            return _FINE
        return self.strides or (_FINE if finest < min(_USUAL) else _USUAL)


def _detector(classifier: nn.Module, source: Source) -> nn.Module:
    head = head_for(source.task)
    return Detector(
        classifier, source.num_classes, source.channels, source.strides, bins=source.bins, detections=source.detections,
        masks=head is not None and head.masks,
    )  # fmt: skip


def _segmenter(classifier: nn.Module, source: Source) -> nn.Module:
    return Segmenter(classifier, source.num_classes, source.channels, source.strides)


_HEADS: dict[Kind | Reader, Head] = {
    "boxes": Head(_detector, small=128, boxes=True),
    "masks": Head(_detector, small=128, boxes=True, masks=True),
    "maps": Head(_segmenter, small=96, strides=(4, 8, 16, 32)),
}


def head_for(task: str) -> Head | None:
    """The head for a task, by the kind of its annotations; None for tasks with one vector of outputs per image, such as classification."""
    try:
        return _HEADS.get(annotations_for(task))
    except DataError:  # the package that adds the task is not installed
        return None


def with_head(classifier: nn.Module, source: Source) -> nn.Module:
    """A detector or segmenter with a classifier as its backbone.

    Args:
        classifier: the classifier; its layers become part of the new network.
        source: task, strides and other settings of the head.

    Raises:
        ModelError: there is no head for the task, or no feature maps can be taken from the classifier.
    """
    head = head_for(source.task)
    if head is None:
        raise ModelError(f"there is no head for the task {source.task!r}", "there are heads for images with boxes, masks or label maps")
    return head.build(classifier, source)
