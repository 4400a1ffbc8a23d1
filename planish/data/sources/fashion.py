"""The images of ``fashion-mini`` that ship with the package, from which the built-in data sets are made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class FashionMini:
    """Grey images of garments on black: 10,000 training and 2,000 test images.

    Args:
        arrays: ``classes``, and, prefixed with ``train`` or ``test``, ``_images`` uint8 ``(N, 28, 28)``, ``_labels`` and ``_indices``
            ``(N,)``.
        sha256: SHA-256 of the file.
    """

    arrays: dict[str, npt.NDArray[np.generic]]
    sha256: str

    @property
    def classes(self) -> list[str]:
        return [str(c) for c in self.arrays["classes"]]

    def images(self, part: Literal["train", "test"]) -> npt.NDArray[np.uint8]:
        return self.arrays[f"{part}_images"].astype(np.uint8, copy=False)

    def labels(self, part: Literal["train", "test"]) -> npt.NDArray[np.int64]:
        return self.arrays[f"{part}_labels"].astype(np.int64)


def fashion_mini_sha256() -> str:
    """SHA-256 of the file, which identifies its content; cheaper than decoding the images."""
    return hashlib.sha256((resources.files("planish.data") / "fashion_mini" / "images.npz").read_bytes()).hexdigest()


def fashion_mini() -> FashionMini:
    """Load the images."""
    source = resources.files("planish.data") / "fashion_mini" / "images.npz"
    with resources.as_file(source) as path, np.load(path, allow_pickle=False) as archive:
        return FashionMini({name: archive[name] for name in archive.files}, fashion_mini_sha256())
