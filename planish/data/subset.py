"""Subsets of a split, used to train and evaluate folds and learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing
    from planish.task import Split


@dataclass(frozen=True, eq=False)
class Subset:
    """A ``planish.task.Split`` that consists of selected images of another split; pixels are copied from that split.

    Args:
        whole: the split that images are selected from.
        rows: indices of the selected images, ``(N,)``.
    """

    whole: Split
    rows: npt.NDArray[np.int64]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.whole.keys[i] for i in self.rows)

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        targets: npt.NDArray[np.int64] = self.whole.targets[self.rows]
        return targets

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """All images at the model's input size, uint8 ``(N, h, w, C)``, in memory."""
        return self.whole.images(spec, preprocessing)[self.rows]

    def file_bytes(self, index: int) -> bytes:
        """The undecoded bytes of an image file."""
        return self.whole.file_bytes(int(self.rows[index]))
