"""Label maps: a class for each pixel, read or painted when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.data.objects import Objects


@dataclass(frozen=True, eq=False)
class PaintedMaps:
    """Label maps made of instance masks: class 0 is the background, a label is one more than the object's; small objects lie on large ones.

    Args:
        objects: of each image.
    """

    objects: Sequence[Objects]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """The map of an image, uint8 ``(H, W)``; 255 where a crowd is."""
        from pycocotools import mask as coco

        one = self.objects[index]
        painted = np.zeros((one.height, one.width), np.uint8)
        assert one.masks is not None
        for i in np.argsort(-one.areas, kind="stable"):
            painted[coco.decode(one.masks[i]) > 0] = 255 if one.crowd[i] else one.labels[i] + 1
        return painted

    def chosen(self, rows: Any) -> PaintedMaps:
        """The maps of some images."""
        return PaintedMaps([self.objects[int(i)] for i in rows])
