"""Which kind of annotations a folder has, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from planish.data.annotations.coco import coco_files, is_coco, read_coco
from planish.data.annotations.noted import NotedImage
from planish.data.annotations.voc import read_voc, voc_files
from planish.errors import DataError

DataTask = Literal["classification", "detection", "instance", "semantic"]
# What else data for one task can be used for.
_ALSO: dict[DataTask, tuple[DataTask, ...]] = {
    "classification": (),
    "detection": (),
    "instance": ("detection", "semantic"),
    "semantic": (),
}


@dataclass(frozen=True)
class Noted:
    """What a source says.

    Args:
        images: in the order of their keys.
        class_names: that labels are of.
        task: what it is for.
    """

    images: list[NotedImage]
    class_names: tuple[str, ...]
    task: DataTask


def noted_in(path: Path) -> Noted | None:
    """What the annotations in a folder, or in a COCO file, say; None where there are none, and images lie in folders of classes.

    Raises:
        DataError: annotations that cannot be used.
    """
    if path.is_file():
        if path.suffix.lower() != ".json" or not is_coco(path):
            return None
        return _of_objects(*read_coco(path.parent, {path: None}))
    if files := coco_files(path):
        return _of_objects(*read_coco(path, files))
    if xml := voc_files(path):
        return _of_objects(*read_voc(path, xml))
    return None


def fitting_task(given: DataTask, wanted: str | None, name: str) -> DataTask:
    """The task that data is used for.

    Raises:
        DataError: it is not for that.
    """
    if wanted in (None, given):
        return given
    for task in _ALSO[given]:
        if task == wanted:
            return task
    able = ", ".join((given, *_ALSO[given]))
    raise DataError(
        f"{name!r} is not for the task {wanted!r}", f"its annotations are for {able}", "leave --task away, or name one of these"
    )


def _of_objects(images: list[NotedImage], class_names: Sequence[str]) -> Noted:
    objects = [o for image in images for o in image.objects]
    if not objects:
        raise DataError("the annotations name no object", "there must be something to learn")
    masked = all(o.mask is not None for o in objects)
    return Noted(images, tuple(class_names), "instance" if masked else "detection")
