"""Small images that a small network learns in seconds: discs, squares and crosses in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SHAPES = ("cross", "disc", "square")


def write_shapes(folder: Path, per_class: int = 60, size: int = 24, channels: int = 1, seed: int = 0) -> Path:
    """Write ``folder/<shape>/<number>.png``; return ``folder``.

    Args:
        folder: created if necessary.
        per_class: images per shape.
        size: height and width in pixels.
        channels: 1 for grey, 3 for colour.
        seed: the same seed gives the same files.
    """
    rng = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            image = _draw(shape, size, rng)
            pixels = image if channels == 1 else np.stack([image, image // 2, 255 - image], axis=2)
            Image.fromarray(pixels).save(folder / shape / f"{number:04d}.png")
    return folder


def _draw(shape: str, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    radius = rng.uniform(0.2, 0.35) * size
    y, x = np.mgrid[:size, :size] - rng.uniform(radius, size - radius, (2, 1, 1))
    inside: npt.NDArray[np.bool_] = {
        "disc": x**2 + y**2 < radius**2,
        "square": (abs(x) < 0.85 * radius) & (abs(y) < 0.85 * radius),
        "cross": ((abs(x) < 0.25 * radius) | (abs(y) < 0.25 * radius)) & (abs(x) < radius) & (abs(y) < radius),
    }[shape]
    noisy = rng.normal(60, 25, (size, size)) + inside * rng.uniform(80, 140)
    pixels: npt.NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels
