"""What a reader says of an image: the same for all formats."""

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
    """One object, in pixels of the image as it lies on disk.

    Args:
        label: name of its class.
        box: left, top, right, bottom.
        crowd: see ``Objects.crowd``.
        area: as the data says; None where it does not.
        difficult: see ``Objects.difficult``.
        mask: polygons ``[[x, y, x, y, ...], ...]``, or run lengths ``{"size": [height, width], "counts": list | str}``; None for none.
    """

    label: str
    box: tuple[float, float, float, float]
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    mask: Any = None


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """One image.

    Args:
        key: stable name, the path below the data folder.
        path: where it lies.
        split: where the source puts it; None where it does not say.
        objects: on it; none at all is something to learn, too.
        size: height and width, as the annotations say; None where they do not.
        labels: file of its label map, for semantic segmentation.
        faults: what could not be understood, in words.
    """

    key: str
    path: Path
    split: GivenSplit | None
    objects: Sequence[ObjectAnnotation] = field(default_factory=tuple)
    size: tuple[int, int] | None = None
    labels: Path | None = None
    faults: Sequence[str] = ()


def note_unused(class_names: Sequence[str], objects: Sequence[ObjectAnnotation]) -> None:
    """Report classes that are declared, but have no object. They keep their numbers, as other tools count them, too."""
    used = {one.label for one in objects}
    if objects and (unused := [name for name in class_names if name not in used]):
        shown = ", ".join(map(repr, unused[:_SHOWN])) + f" and {len(unused) - _SHOWN} more" * (len(unused) > _SHOWN)
        note(f"{len(unused)} of {len(class_names)} classes have no object and keep their place in the order: {shown}")
