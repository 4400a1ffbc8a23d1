"""Small images for annotations of every format, and what a reader makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from planish.data.images import ImageData, load_images
from planish.progress import collecting_notes

HEIGHT, WIDTH, IMAGES = 24, 32, 12


def picture(number: int, path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


def objects(data: ImageData) -> int:
    return sum(len(target) for name, split in data.splits.items() if name != "calibration" for target in split.targets)


def loaded(source: Path, **options: Any) -> tuple[ImageData, str]:
    with collecting_notes() as notes:
        data = load_images(source, **options)
    return data, "\n".join(notes)
