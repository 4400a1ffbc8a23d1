"""Create the built-in dataset fashion-mini: 1,000 training and 200 test images per class of Fashion-MNIST, sampled with a fixed seed.

python tools/make_fashion_mini.py FOLDER     # FOLDER/{train,test}/<class>/<index>.png, all of Fashion-MNIST
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

TARGET = Path(__file__).parent.parent / "planish" / "data" / "fashion_mini" / "images.npz"


def main(source: Path) -> None:
    arrays = {}
    rng = np.random.default_rng(0)
    for split, per_class in (("train", 1000), ("test", 200)):
        classes = sorted(p.name for p in (source / split).iterdir())
        chosen = [p for c in classes for p in sorted(rng.choice(sorted((source / split / c).glob("*.png")), per_class, replace=False))]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(p, formats=("PNG",))) for p in chosen])
        arrays[f"{split}_labels"] = np.array([classes.index(p.parent.name) for p in chosen], dtype=np.uint8)
        arrays[f"{split}_indices"] = np.array([int(p.stem) for p in chosen], dtype=np.int32)
        arrays["classes"] = np.array(classes)
    TARGET.parent.mkdir(exist_ok=True)
    # LZMA files are a seventh smaller than those of NumPy's deflate, and NumPy can read them. Fixed dates make the file reproducible.
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(_entry(f"{name}.npy"), "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_LZMA
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]))
