"""Label maps (a class for each pixel) that are read from files or rasterized from masks on access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.data.annotations.map_codes import IGNORED, PixelClasses
from planish.data.targets.objects import Objects, counts_of


@dataclass(frozen=True, eq=False)
class RasterizedLabelMaps:
    """Label maps rasterized from instance masks: class 0 is the background, objects of class ``c`` become ``c + 1``, small ones on top.

    Args:
        objects: the objects of each image.
    """

    objects: Sequence[Objects]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """The label map of an image, uint8 ``(H, W)``; 255 on crowds and difficult objects."""
        from pycocotools import mask as coco

        one = self.objects[index]
        painted = np.zeros((one.height, one.width), np.uint8)
        assert one.masks is not None
        ignored = one.ignored
        for i in np.argsort(-one.areas, kind="stable"):
            painted[coco.decode(one.masks[i]) > 0] = IGNORED if ignored[i] else one.labels[i] + 1
        return painted

    def chosen(self, rows: Any) -> RasterizedLabelMaps:
        """The label maps of selected images."""
        return RasterizedLabelMaps([self.objects[int(i)] for i in rows])

    def joined(self, other: RasterizedLabelMaps) -> RasterizedLabelMaps:
        """These label maps followed by others."""
        return RasterizedLabelMaps([*self.objects, *other.objects])

    def counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """The number of objects of each class, without the background."""
        return dict(zip(class_names[1:], counts_of(self.objects, len(class_names) - 1), strict=True))


@dataclass(frozen=True, eq=False)
class FileLabelMaps:
    """Label maps stored as image files.

    Args:
        files: the mask file of each image.
        codes: the class of each pixel value or colour.
        there: whether each class occurs in each map, bool ``(N, classes)``.
    """

    files: Sequence[Path]
    codes: PixelClasses
    there: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        """The label map of an image, uint8 ``(H, W)``; 255 on ignored pixels."""
        return self.codes.classes(self.files[index])

    def chosen(self, rows: Any) -> FileLabelMaps:
        """The label maps of selected images."""
        rows = np.asarray(rows, np.int64)
        return FileLabelMaps([self.files[int(i)] for i in rows], self.codes, self.there[rows])

    def joined(self, other: FileLabelMaps) -> FileLabelMaps:
        """These label maps followed by others."""
        return FileLabelMaps([*self.files, *other.files], self.codes, np.concatenate([self.there, other.there]))

    def counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """The number of images that contain each class."""
        return dict(zip(class_names, self.there.sum(0).tolist(), strict=True))
