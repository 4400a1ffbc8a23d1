"""Networks for tasks with places in the image, on the maps of a classifier."""

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
    """What stands on the maps of a classifier, which is taken apart.

    Args:
        build: the network, from the classifier and how it is to be built.
        small: pixels up to which fine maps learn more, and coarse ones are of few places.
        strides: of its levels on larger images; empty for those of the backbone.
        boxes: whether it finds boxes, which its levels must reach.
        masks: whether it also finds their masks.
    """

    build: Callable[[nn.Module, Source], nn.Module]
    small: int
    strides: tuple[int, ...] = ()
    boxes: bool = False
    masks: bool = False

    def strides_for(self, image_size: int, finest: int) -> tuple[int, ...]:
        """Strides of its levels.

        Args:
            image_size: shorter side in pixels.
            finest: the finest stride that the backbone has among those of a pyramid.
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
    """The head of networks for a task, by what its images are annotated with; None where they end in one row of numbers per image, as
    classifiers do.
    """
    try:
        return _HEADS.get(annotations_for(task))
    except DataError:  # the package that adds the task is not installed
        return None


def with_head(classifier: nn.Module, source: Source) -> nn.Module:
    """A detector or segmenter on a classifier, which is taken apart.

    Args:
        classifier: the backbone.
        source: with its task, strides and what else its head is made by.

    Raises:
        ModelError: there is no such head, or no maps can be taken from the classifier.
    """
    head = head_for(source.task)
    if head is None:
        raise ModelError(f"there is no head for the task {source.task!r}", "there are heads for images with boxes, masks or label maps")
    return head.build(classifier, source)
