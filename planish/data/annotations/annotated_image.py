"""The annotations of an image, as returned by the readers of all formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planish.data.sources.listing import GivenSplit
from planish.progress import note

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """The annotation of one object, in pixels of the image file.

    Args:
        label: class name.
        box: left, top, right, bottom.
        crowd: see ``Objects.crowd``.
        area: area given by the annotation; None if it has none.
        difficult: see ``Objects.difficult``.
        mask: polygons ``[[x, y, x, y, ...], ...]``, or a run-length encoding ``{"size": [height, width], "counts": list | str}``; None
            without a mask.
    """

    label: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    mask: Any = None


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with its annotations.

    Args:
        key: stable name of the image: its path relative to the data folder.
        path: path of the image file.
        split: split defined by the source; None if it defines none.
        objects: annotated objects; an image without objects is a valid training image.
        size: height and width given by the annotations; None if they do not give it.
        labels: file of its label map, for semantic segmentation.
        faults: descriptions of annotations that could not be parsed.
    """

    key: str
    path: Path
    split: GivenSplit | None
    objects: Sequence[ObjectAnnotation] = field(default_factory=tuple)
    size: tuple[int, int] | None = None
    labels: Path | None = None
    faults: Sequence[str] = ()


def note_unused(class_names: Sequence[str], objects: Sequence[ObjectAnnotation]) -> None:
    """Log classes that are declared but have no object. They keep their index, for consistency with other tools."""
    used = {one.label for one in objects}
    if objects and (unused := [name for name in class_names if name not in used]):
        shown = ", ".join(map(repr, unused[:_SHOWN])) + f" and {len(unused) - _SHOWN} more" * (len(unused) > _SHOWN)
        note(f"{len(unused)} of {len(class_names)} classes have no object and keep their place in the order: {shown}")
