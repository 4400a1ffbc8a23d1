"""Label maps: a class for each pixel, read or painted when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.data.annotations.map_codes import IGNORED, Codes
from planish.data.targets.objects import Objects, counts_of


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
        """The map of an image, uint8 ``(H, W)``; 255 where a crowd or a difficult object is."""
        from pycocotools import mask as coco

        one = self.objects[index]
        painted = np.zeros((one.height, one.width), np.uint8)
        assert one.masks is not None
        ignored = one.ignored
        for i in np.argsort(-one.areas, kind="stable"):
            painted[coco.decode(one.masks[i]) > 0] = IGNORED if ignored[i] else one.labels[i] + 1
        return painted

    def chosen(self, rows: Any) -> PaintedMaps:
        """The maps of some images."""
        return PaintedMaps([self.objects[int(i)] for i in rows])

    def joined(self, other: PaintedMaps) -> PaintedMaps:
        """The maps of both."""
        return PaintedMaps([*self.objects, *other.objects])

    def counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """Objects of each class; the background is none."""
        return dict(zip(class_names[1:], counts_of(self.objects, len(class_names) - 1), strict=True))


@dataclass(frozen=True, eq=False)
class ReadMaps:
    """Label maps that lie in files.

    Args:
        files: of each image.
        codes: what stands in them.
        there: whether a class is in a map, bool ``(N, classes)``.
    """

    files: Sequence[Path]
    codes: Codes
    there: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """The map of an image, uint8 ``(H, W)``; 255 where nothing is asked."""
        return self.codes.classes(self.files[index])

    def chosen(self, rows: Any) -> ReadMaps:
        """The maps of some images."""
        rows = np.asarray(rows, np.int64)
        return ReadMaps([self.files[int(i)] for i in rows], self.codes, self.there[rows])

    def joined(self, other: ReadMaps) -> ReadMaps:
        """The maps of both."""
        return ReadMaps([*self.files, *other.files], self.codes, np.concatenate([self.there, other.there]))

    def counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """Images with each class."""
        return dict(zip(class_names, self.there.sum(0).tolist(), strict=True))
