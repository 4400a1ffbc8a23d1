"""The objects of one image (boxes, classes, masks): targets of detection and instance segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image. An image without objects is a valid training image.

    Args:
        boxes: normalized xyxy boxes, float32 ``(M, 4)``, independent of the resolution.
        labels: class indices, int64 ``(M,)``.
        height: height of the image file in pixels, after applying its EXIF orientation.
        width: width of the image file in pixels, likewise.
        crowd: bool ``(M,)``, True for boxes around a group of objects (COCO ``iscrowd``): any number of detections in it count neither as
            true nor as false positives.
        areas: areas in pixels of the image file, float64 ``(M,)``; they determine which objects are small, medium and large.
        masks: one COCO run-length encoding per object, ``{"size": [height, width], "counts": bytes}``; None without masks.
        difficult: bool ``(M,)``, True for single objects that do not count (Pascal VOC ``difficult``): detections that match one count
            neither as true nor as false positives; None if there are none.
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
        """Crowds and difficult objects, bool ``(M,)``: excluded from the loss, both as object and as background, and from metrics."""
        return self.crowd if self.difficult is None else self.crowd | self.difficult

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counted_labels(self) -> npt.NDArray[np.int64]:
        """Class indices of the objects that are not ignored."""
        return self.labels[~self.ignored]

    def sorted_annotations(self) -> list[tuple[Any, ...]]:
        """Class, box, crowd, difficult and mask of each object, sorted, so that two images can be compared."""
        difficult = np.zeros(len(self), bool) if self.difficult is None else self.difficult
        masks = [b""] * len(self) if self.masks is None else [mask["counts"] for mask in self.masks]
        return sorted(zip(self.labels.tolist(), self.boxes.tolist(), self.crowd.tolist(), difficult.tolist(), masks, strict=True))


def counts_of(images: Iterable[Objects], classes: int) -> list[int]:
    """The number of objects of each class, without ignored ones."""
    labels = np.concatenate([*(one.counted_labels for one in images), np.zeros(0, np.int64)]).astype(np.int64)
    counts: list[int] = np.bincount(labels, minlength=classes).tolist()
    return counts
