"""Built-in data sets.

``fashion-mini`` ships with the package, ``fashion-scenes`` is generated from it; the others are read from ``$PLANISH_DATA`` or downloaded.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from planish.data.cache.files import full_disk_reported, whole
from planish.data.sources.fashion import fashion_mini, fashion_mini_sha256
from planish.data.sources.scenes import TRAIN_SCENES, scenes_folder
from planish.errors import DataError
from planish.progress import Stage, note

BUILTIN = ("fashion-mini", "cifar10", "fashion-mnist", "mnist", "fashion-scenes")
_FEWER_SCENES = re.compile(r"fashion-scenes-([1-9]\d{0,4})")


def is_builtin(name: str) -> bool:
    """Whether a name is that of a built-in data set; ``fashion-scenes-1000`` is ``fashion-scenes`` with 1000 training scenes."""
    return name in BUILTIN or _FEWER_SCENES.fullmatch(name) is not None


def builtin_folder(name: str, cache_dir: Path) -> Path:
    """The folder of a built-in data set, created or downloaded on first use: class folders, or COCO layout for ``fashion-scenes``.

    Raises:
        DataError: the data set cannot be downloaded or written.
    """
    if name == "fashion-scenes":
        return scenes_folder(cache_dir, TRAIN_SCENES)
    if fewer := _FEWER_SCENES.fullmatch(name):
        return scenes_folder(cache_dir, int(fewer[1]))
    if name == "fashion-mini":
        return _fashion_mini(cache_dir)
    root = Path(os.environ.get("PLANISH_DATA") or cache_dir / "data").expanduser()
    folder = root / name
    if not (folder / "train").is_dir():
        _download(name, folder)
    return folder


def _fashion_mini(cache_dir: Path) -> Path:
    folder = cache_dir / "fashion-mini" / fashion_mini_sha256()[:16]
    if folder.is_dir():
        return folder
    mini = fashion_mini()
    classes, arrays = mini.classes, mini.arrays
    splits = {
        split: zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], arrays[f"{split}_indices"], strict=True)
        for split in ("train", "test")
    }
    total = len(arrays["train_labels"]) + len(arrays["test_labels"])
    _write_folders(folder, classes, splits, "writing fashion-mini", total)
    return folder


def _download(name: str, folder: Path) -> None:
    from torchvision import datasets

    make: Any = {"cifar10": datasets.CIFAR10, "fashion-mnist": datasets.FashionMNIST, "mnist": datasets.MNIST}[name]
    note(f"{name} is not in {str(folder.parent)!r}: downloading it there")
    download = folder.parent / f"{name}.download"
    try:
        parts = {split: make(download, train=split == "train", download=True) for split in ("train", "test")}
    except Exception as error:  # the network, the host, the checksum: torchvision raises a different one for each
        raise DataError(
            f"{name} could not be downloaded: {error}",
            f"lay it out as {folder}/train/<class>/<image>.png and test/",
            "set PLANISH_DATA to the folder that holds it; fashion-mini needs no download",
        ) from error
    classes = [c.split("/")[0].split(" - ")[0].lower().replace(" ", "-") for c in parts["train"].classes]
    splits = {split: zip(part.data, part.targets, range(len(part)), strict=True) for split, part in parts.items()}
    _write_folders(folder, classes, splits, f"writing {name}", sum(len(part) for part in parts.values()))
    shutil.rmtree(download, ignore_errors=True)


def _write_folders(
    folder: Path, classes: list[str], splits: Mapping[str, Iterable[tuple[Any, Any, Any]]], stage_name: str, total: int
) -> None:
    """Write ``folder/split/class/index.png`` atomically."""
    try:
        with whole(folder) as partial, full_disk_reported(folder.parent, lambda: 4096 * total), Stage(stage_name, total) as stage:
            for split, items in splits.items():
                for name in classes:
                    (partial / split / name).mkdir(parents=True)
                for image, label, index in items:
                    Image.fromarray(np.asarray(image)).save(partial / split / classes[int(label)] / f"{int(index):05d}.png")
                    stage.advance()
    except OSError as error:
        raise DataError(
            f"{str(folder)!r} cannot be written: {error.strerror}", "", "set PLANISH_CACHE or PLANISH_DATA to a folder that can"
        ) from error
