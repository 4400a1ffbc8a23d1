"""Occlusion maps: how much the confidence drops when parts of the image are covered (Zeiler & Fergus 2014, arXiv:1311.2901)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing

CELLS = 8  # per side


def covered(pixels: Pixels) -> Pixels:
    """Return copies of the image, each with another part covered by the image's mean colour.

    Args:
        pixels: uint8 ``(1, H, W, C)``.

    Returns:
        uint8 ``(CELLS * CELLS, H, W, C)``, row by row; each copy covers one cell and half of its neighbours.
    """
    image = pixels[0]
    height, width = image.shape[:2]
    mean = image.reshape(-1, image.shape[2]).mean(axis=0).round().astype(np.uint8)
    found = np.repeat(pixels, CELLS * CELLS, axis=0)
    for number, part in enumerate(found):
        row, column = divmod(number, CELLS)
        rows = slice(max(0, int((row - 0.5) * height / CELLS)), int(np.ceil((row + 1.5) * height / CELLS)))
        columns = slice(max(0, int((column - 0.5) * width / CELLS)), int(np.ceil((column + 1.5) * width / CELLS)))
        part[rows, columns] = mean
    return found


def lost(confidence: float, confidences: list[float]) -> list[list[float]]:
    """Return the drop in confidence for each covered part, ``CELLS`` rows of ``CELLS`` values; negative if covering raises it."""
    grid: npt.NDArray[np.float64] = (confidence - np.asarray(confidences)).reshape(CELLS, CELLS)
    return [[round(float(value), 4) for value in row] for row in grid]


def seen_region(height: int, width: int, spec: InputSpec, preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """Return the part of an image that the model receives: left, top, width and height, normalized to the image's sides."""
    if preprocessing.resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    scale = max(spec.height / height, spec.width / width)
    wide, high = min(1.0, spec.width / (scale * width)), min(1.0, spec.height / (scale * height))
    return (1 - wide) / 2, (1 - high) / 2, wide, high
