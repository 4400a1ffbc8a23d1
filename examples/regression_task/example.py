"""Discs of which two numbers are measured: ``python example.py FOLDER`` writes the images and runs ``train``, ``optimize`` and ``verify``.

Planish finds the task once this folder is installed: ``pip install ./examples/regression_task``.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS_A_MM = 8


def write_discs(folder: Path, count: int = 600, size: int = 32, seed: int = 0) -> Path:
    """Write ``folder/disc/*.png`` and ``folder/discs.csv``: diameter of a bright disc, and the height of its centre, in mm.

    Args:
        folder: is made.
        count: images.
        size: height and width in pixels.
        seed: equal seeds give equal files.
    """
    rng = np.random.default_rng(seed)
    (folder / "disc").mkdir(parents=True, exist_ok=True)
    with (folder / "discs.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "diameter [mm]", "height [mm]"])
        for number in range(count):
            diameter = rng.uniform(0.6, 2.0)
            height, across = rng.uniform(diameter / 2, size / PIXELS_A_MM - diameter / 2, 2)
            y, x = np.mgrid[:size, :size] + 0.5
            away = np.hypot(x - across * PIXELS_A_MM, size - y - height * PIXELS_A_MM)
            inside = np.clip(diameter / 2 * PIXELS_A_MM - away + 0.5, 0, 1)
            pixels = rng.normal(60, 10, (size, size, 3)) + inside[..., None] * rng.uniform(80, 150, 3)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "disc" / f"{number:04d}.png")
            table.writerow([f"disc/{number:04d}.png", f"{diameter:.4f}", f"{height:.4f}"])
    return folder / "discs.csv"


def main(folder: Path) -> None:
    """Train a network on the discs, then make it small and fast, and check what ships."""
    import planish

    data = write_discs(folder / "data")
    trained = planish.train(data, task="regression", model="resnet8", out=folder / "model")
    print(*(f"{name}: {measured}" for name, measured in trained.metrics.items()), sep="\n")
    result = planish.optimize(data, task="regression", model="resnet8", out=folder / "run", budget="5m")
    print(result.verdict)
    print("verified" if not planish.verify(folder / "run").failures else "not verified")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
