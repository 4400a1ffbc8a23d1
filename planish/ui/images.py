"""A look at a folder of images before anything is started with it: what it holds, some of its images, and what is wrong."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from planish.data.preprocessing import FORMATS, LARGEST_PIXELS
from planish.data.sources.reading import read_source, report_found
from planish.data.sources.source import LabelledFiles
from planish.files.workspace import cache_root
from planish.progress import collecting_notes

_THUMBNAILS, _SIDE = 12, 112
_CLASSES = 30


@dataclass(frozen=True)
class Contents:
    """What a data source holds, without decoding all of it.

    Args:
        name: its name.
        task: what it can be used for.
        layout: how labels are stored.
        images: number of images.
        classes: class names with numbers of images, the most frequent first; empty if labels are not one class each.
        more_classes: number of classes that are not in ``classes``.
        notes: what was assumed, and what is left out.
        thumbnails: data URIs of some images, with their labels.
        unreadable: names of those that could not be shown.
    """

    name: str
    task: str
    layout: str
    images: int
    classes: tuple[tuple[str, int], ...]
    more_classes: int
    notes: tuple[str, ...]
    thumbnails: tuple[tuple[str, str], ...]
    unreadable: tuple[str, ...]


def look_at(source: str) -> Contents:
    """List the images of a source and decode a few.

    Raises:
        DataError: it does not exist, holds no images, or is ambiguous.
    """
    name, content = read_source(source, cache_root(None), None)
    with collecting_notes(silent=True) as notes:
        report_found(content)
    images = list(content.images)
    labels = [one.label for one in images] if isinstance(content, LabelledFiles) else []
    counts = Counter(labels).most_common()
    shown, unreadable = list[tuple[str, str]](), list[str]()
    for row in np.unique(np.linspace(0, len(images) - 1, min(_THUMBNAILS, len(images))).round().astype(int)):
        try:
            shown.append((_thumbnail(images[row].path), labels[row] if labels else images[row].path.name))
        except Exception:  # what a broken file raises
            unreadable.append(images[row].path.name)
    return Contents(
        name, content.task, content.how, len(images), tuple(counts[:_CLASSES]), max(0, len(counts) - _CLASSES), tuple(notes), tuple(shown),
        tuple(unreadable),
    )  # fmt: skip


def _thumbnail(path: Path) -> str:
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > LARGEST_PIXELS:
            raise ValueError("too large")
        image.draft("RGB", (_SIDE, _SIDE))
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
