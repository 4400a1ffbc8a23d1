"""Some images of a split: what folds and learning curves train and judge on."""

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
    """A ``planish.task.Split`` of the images in some rows of another one; pixels are copied from those of the whole.

    Args:
        whole: the split.
        rows: positions in it, ``(N,)``.
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
        """All images as the model is fed them, uint8 ``(N, h, w, C)``, in memory."""
        return self.whole.images(spec, preprocessing)[self.rows]

    def file_bytes(self, index: int) -> bytes:
        """The image file as it lies on disk."""
        return self.whole.file_bytes(int(self.rows[index]))
