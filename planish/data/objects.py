"""What is in one image: boxes, classes, masks. Targets of detection and of instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image; none at all is an image to learn from, too.

    Args:
        boxes: left, top, right, bottom as shares of the image's sides, float32 ``(M, 4)``: they hold at any resolution.
        labels: class numbers, int64 ``(M,)``.
        height: of the image as it lies on disk, turned as its EXIF says, in pixels.
        width: likewise.
        crowd: ``(M,)``, True where a box stands for a group that was not taken apart (COCO's ``iscrowd``): neither found nor missed.
        areas: in pixels of that image, float64 ``(M,)``; what small, medium and large are told by.
        masks: one an object, in COCO's run lengths: ``{"size": [height, width], "counts": bytes}``; None where there are none.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    height: int
    width: int
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    masks: tuple[dict[str, Any], ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)
