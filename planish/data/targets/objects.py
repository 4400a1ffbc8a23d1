"""What is in one image: boxes, classes, masks. Targets of detection and of instance segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image; none at all is an image to learn from, too.

    Args:
        boxes: left, top, right, bottom normalized to the image's sides, float32 ``(M, 4)``: they hold at any resolution.
        labels: class numbers, int64 ``(M,)``.
        height: of the image as it lies on disk, turned as its EXIF says, in pixels.
        width: likewise.
        crowd: ``(M,)``, True where a box stands for a group that was not taken apart (COCO's ``iscrowd``): any number of detections in it
            are neither right nor wrong.
        areas: in pixels of that image, float64 ``(M,)``; what small, medium and large are told by.
        masks: one per object, in COCO's run lengths: ``{"size": [height, width], "counts": bytes}``; None where there are none.
        difficult: ``(M,)``, True for single objects that do not count (Pascal VOC's ``difficult``): detections that match one are neither
            right nor wrong; None where there are none.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    height: int
    width: int
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    masks: tuple[dict[str, Any], ...] | None = None
    difficult: npt.NDArray[np.bool_] | None = None

    @property
    def ignored(self) -> npt.NDArray[np.bool_]:
        """``(M,)``, True for crowds and difficult objects: neither trained on, as object or as background, nor counted."""
        return self.crowd if self.difficult is None else self.crowd | self.difficult

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counted_labels(self) -> npt.NDArray[np.int64]:
        """Class numbers of the objects that are not ignored."""
        return self.labels[~self.ignored]


def counts_of(images: Iterable[Objects], classes: int) -> list[int]:
    """Objects of each class that are not ignored."""
    labels = np.concatenate([*(one.counted_labels for one in images), np.zeros(0, np.int64)]).astype(np.int64)
    counts: list[int] = np.bincount(labels, minlength=classes).tolist()
    return counts
