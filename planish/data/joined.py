"""A split made of the images of two splits, and the images of one that are not in others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from planish.data.duplicates import near_duplicate_groups

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing
    from planish.data.images import ImageSplit
    from planish.task import Split


@dataclass(frozen=True, eq=False)
class JoinedSplit:
    """A ``planish.task.Split`` of the images of one split followed by those of another, perhaps of another data set.

    Args:
        first: a split.
        second: another one; its keys follow ``prefix``.
        prefix: start of the keys of ``second``, which tells them from those of ``first``.
    """

    first: Split
    second: Split
    prefix: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.first.keys, *(self.prefix + key for key in self.second.keys))

    @property
    def targets(self) -> Any:
        first, second = self.first.targets, self.second.targets
        return np.concatenate([first, second]) if isinstance(first, np.ndarray) else _JoinedTargets(first, second)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """All images at the model's input size, uint8 ``(N, h, w, C)``, copied when they are selected."""
        return cast("Pixels", _JoinedImages(self.first.images(spec, preprocessing), self.second.images(spec, preprocessing)))

    def file_bytes(self, index: int) -> bytes:
        """The undecoded bytes of an image file."""
        inner = index - len(self.first)
        return self.first.file_bytes(index) if inner < 0 else self.second.file_bytes(inner)


class _JoinedTargets(Sequence[Any]):
    """Label maps of files, for example, are read when they are selected."""

    def __init__(self, first: Sequence[Any], second: Sequence[Any]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        return self._first[place] if place < len(self._first) else self._second[place - len(self._first)]


class _JoinedImages:
    """Selected like an array of the images of both."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, first: Pixels, second: Pixels) -> None:
        self._first, self._second = first, second
        self.shape: tuple[int, ...] = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        selected = np.arange(len(self))[index]
        if selected.ndim == 0:
            one: npt.NDArray[np.uint8] = self[selected[None]][0]
            return one
        inner = selected < len(self._first)
        found = np.empty((len(selected), *self.shape[1:]), np.uint8)
        found[inner] = self._first[selected[inner]]
        found[~inner] = self._second[selected[~inner] - len(self._first)]
        return found


def copies_of(images: ImageSplit, others: Sequence[ImageSplit]) -> npt.NDArray[np.bool_]:
    """Which images are copies or near copies of images of other splits, bool ``(N,)``."""
    thumbs, means = zip(images.thumbnails, *(other.thumbnails for other in others), strict=True)
    groups = near_duplicate_groups(np.concatenate(thumbs), np.concatenate(means))
    return np.isin(groups[: len(images)], groups[len(images) :])
