"""An image in a shard or a Parquet file, and what its names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from planish.data.sources.listing import SPLIT_WORDS
from planish.split_assignment import AssignedSplit

_KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}

Objects = Sequence[tuple[str, Sequence[float]]]


@dataclass(frozen=True)
class PackedImage:
    """One image.

    Args:
        name: a file name that no other image of the source has.
        content: the undecoded image file.
        label: class name; None without a label.
        split: split that the shard or file belongs to.
        objects: class name and box of each object, x, y, width and height in pixels; None if the image has a class.
    """

    name: str
    content: bytes
    label: str | None
    split: AssignedSplit | None
    objects: Objects | None = None


def split_of(file: Path) -> AssignedSplit | None:
    """Return the split in the name of a file, such as ``imagenet-train-0001.tar``, or of its folder."""
    words = [*re.split(r"[-_.]", file.stem.lower()), file.parent.name.lower()]
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def suffix_of(content: bytes) -> str:
    """Return the usual ending of an image file's name."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for start, suffix in _KINDS.items() if content.startswith(start)), ".img")
