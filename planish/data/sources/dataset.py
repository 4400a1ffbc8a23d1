"""Conversion of a PyTorch dataset of images and classes to class folders."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from planish.errors import DataError
from planish.files.workspace import cache_root, replacing

_CHANNELS = (1, 3, 4)


class Dataset(Protocol):
    """A map-style ``torch.utils.data.Dataset``; those of torchvision also have ``classes``."""

    def __getitem__(self, index: int) -> Any: ...

    def __len__(self) -> int: ...


def folder_of(dataset: Dataset, cache_dir: Path | None = None) -> Path:
    """Write the images to the cache, losslessly, in class folders.

    Args:
        dataset: items ``(image, class index)``, where the image is a PIL image, or an array or tensor, uint8 ``(H, W)``, ``(H, W, C)`` or
            ``(C, H, W)``. Class names are its ``classes`` attribute, or else the indices.
        cache_dir: cache folder; None for ``$PLANISH_CACHE`` or ``~/.cache/planish``.

    Returns:
        The folder; the same images and classes always give the same folder.

    Raises:
        DataError: an item is not an image with a class index, or two classes have the same name.
    """
    names = [str(name) for name in getattr(dataset, "classes", ())]
    folders = [name.replace("/", "-") for name in names]
    if twice := sorted({name for name in folders if folders.count(name) > 1}):
        raise DataError(
            f"several classes of the data set are called {', '.join(map(repr, twice[:5]))}", "each class has a folder of its own"
        )
    whole, files = hashlib.sha256(repr(names).encode()), []
    root = cache_root(cache_dir) / "datasets"
    for index in range(len(dataset)):
        try:
            image, given = dataset[index][:2]
            label = int(given)
            if label != given:
                raise ValueError(f"{given} is no class index")
        except (TypeError, ValueError, LookupError, RuntimeError) as error:  # torch raises RuntimeError for a tensor of several numbers
            raise DataError(f"item {index} of the data set", "an item is (image, class index)", "pass a folder or a manifest") from error
        if label < 0 or (names and label >= len(names)):
            raise DataError(f"item {index} has the class {label}", f"there are {len(names)} classes, from 0")
        data = _png(image, index)
        content = hashlib.sha256(data).hexdigest()[:24]
        whole.update(f"{label}:{content}".encode())
        files.append((folders[label] if folders else str(label), f"{index:07d}-{content}.png", data))
    folder = root / whole.hexdigest()[:24]
    for name, file, data in files:
        path = folder / name / file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(data)
    return folder


def _png(image: Any, index: int) -> bytes:
    rule = "images are PIL images, or uint8 (H, W), (H, W, C) or (C, H, W)"
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[2] not in _CHANNELS:
            array = array.transpose(1, 2, 0)
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
            raise DataError(
                f"image {index} of the data set is {array.dtype} of shape {array.shape}",
                rule,
                "pass the data set without transforms: Planish resizes, normalises and augments",
            )
        image = Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
    if image.mode in ("CMYK", "YCbCr", "HSV"):  # PNG has none of these
        image = image.convert("RGB")
    buffer = io.BytesIO()
    try:
        image.save(buffer, "PNG")
    except OSError as error:
        raise DataError(f"image {index} of the data set is in the colour mode {image.mode}", rule, "convert it to RGB or grey") from error
    return buffer.getvalue()
