"""Which kind of annotations a folder has, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from planish.data.annotations.coco import coco_files, is_coco, read_coco
from planish.data.annotations.masks import masked_images, read_label_maps, read_object_masks
from planish.data.annotations.noted import NotedImage
from planish.data.annotations.voc import read_voc, voc_files
from planish.data.annotations.yolo import read_yolo, yolo_layout
from planish.data.map_codes import Codes
from planish.errors import DataError
from planish.progress import note

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
        how: the kind of annotations, in words.
        codes: what stands in label maps; None where there are none.
    """

    images: list[NotedImage]
    class_names: tuple[str, ...]
    task: DataTask
    how: str
    codes: Codes | None = None


def noted_in(path: Path, wanted: str | None = None) -> Noted | None:
    """What the annotations in a folder, or in a COCO file, say; None where there are none, and images lie in folders of classes.

    Args:
        path: of the folder or file.
        wanted: what they shall be for, where a folder has several kinds: Pascal VOC's has boxes, label maps and maps of objects.

    Raises:
        DataError: annotations that cannot be used.
    """
    if path.is_file():
        if path.suffix.lower() != ".json" or not is_coco(path):
            return None
        return _of_objects(*read_coco(path.parent, {path: None}), "COCO's JSON")
    if files := coco_files(path):
        return _of_objects(*read_coco(path, files), "COCO's JSON")
    if wanted not in ("instance", "semantic") and (xml := voc_files(path)):
        return _of_objects(*read_voc(path, xml), "Pascal VOC's XML")
    if (layout := yolo_layout(path)) is not None:
        return _of_objects(*read_yolo(path, layout), "YOLO's text files")
    return _of_masks(path, wanted)


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


def _of_objects(images: list[NotedImage], class_names: Sequence[str], how: str) -> Noted:
    images = _without_repeated(images)
    objects = [o for image in images for o in image.objects]
    if not objects and not any(image.faults for image in images):
        raise DataError("the annotations name no object", "there must be something to learn")
    with_mask = sum(o.mask is not None for o in objects)
    masked = 2 * with_mask > len(objects)  # single ones without a mask are told when they are read
    if with_mask and not masked:
        note(f"{with_mask} of {len(objects)} objects have a mask, too few for segmentation: the data is for detection")
    return Noted(_with_splits(images), tuple(class_names), "instance" if masked else "detection", how)


def _without_repeated(images: list[NotedImage]) -> list[NotedImage]:
    """Objects that are listed twice in an image, as in merged files, are used once."""
    found, repeated, example = [], 0, ""
    for image in images:
        unique = {(o.label, o.box, o.crowd, o.difficult, repr(o.mask)): o for o in reversed(image.objects)}
        if len(unique) < len(image.objects):
            repeated += len(image.objects) - len(unique)
            example = example or image.key
            image = replace(image, objects=tuple(reversed(unique.values())))
        found.append(image)
    if repeated:
        note(f"{repeated} objects are listed twice, with the same class, box and mask; each is used once; for example in {example}")
    return found


def _with_splits(images: list[NotedImage]) -> list[NotedImage]:
    """Those in a split where some are; the others are told."""
    without = [image.key for image in images if image.split is None]
    if not without or len(without) == len(images):
        return images
    note(f"{len(without)} of {len(images)} images are in no split and are left out, for example {', '.join(without[:3])}")
    return [image for image in images if image.split is not None]


def _of_masks(path: Path, wanted: str | None) -> Noted | None:
    """Of mask images: of objects where that is wanted, or where there are no others; else label maps."""
    masked = masked_images(path)
    if not masked:
        return None
    maps = [one for one in masked if one.labels is not None]
    single = [one for one in masked if one.objects is not None or one.singles]
    if single and (wanted in ("instance", "detection") or not maps):
        return _of_objects(*read_object_masks(path, single), "mask images of objects")
    images, codes = read_label_maps(path, maps)
    return Noted(_with_splits(images), codes.class_names, "semantic", "mask images", codes)
