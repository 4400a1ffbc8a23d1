"""Detection of the annotation layout of a folder or file, and reading of its annotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation
from planish.data.annotations.coco import coco_files, is_coco, read_coco
from planish.data.annotations.map_codes import NAME_FILES, PixelClasses
from planish.data.annotations.masks import Masked, masked_images, read_label_maps, read_object_masks
from planish.data.annotations.voc import read_voc, voc_files
from planish.data.annotations.yolo import has_yolo, read_yolo, yolo_layout
from planish.data.sources.inventory import Inventory
from planish.data.sources.unsupported_formats import foreign_format
from planish.errors import DataError
from planish.task import USUAL_TASKS, Kind


@dataclass(frozen=True)
class SourceAnnotations:
    """The annotations of a data set.

    Args:
        images: annotated images, sorted by key.
        class_names: names of the classes.
        kind: kind of the annotations.
        how: display name of the layout.
        codes: codes of the label maps; None without label maps.
    """

    images: list[AnnotatedImage]
    class_names: tuple[str, ...]
    kind: Kind
    how: str
    codes: PixelClasses | None = None


LAYOUTS: dict[str, str] = {
    "classes": "class folders",
    "splits": "class folders in train/, val/ and test/",
    "coco": "COCO JSON",
    "voc": "Pascal VOC XML",
    "yolo": "YOLO text files",
    "masks": "mask images",
}
# The kinds that annotations of each layout can be read as. In a folder with several layouts, the one that provides the wanted kind is used.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "coco": ("boxes", "masks", "maps"),
    "yolo": ("boxes", "masks", "maps"),
    "voc": ("boxes",),
    "masks": ("masks", "maps"),
}


def read_annotations(
    path: Path, wanted: Kind | None = None, layout: str | None = None, inventory: Inventory | None = None
) -> SourceAnnotations | None:
    """Read the annotations in a folder, or in a COCO or YAML file; None if there are none, as in class folders.

    Args:
        path: the folder or file.
        wanted: kind to read if a folder has several: a Pascal VOC folder has boxes, label maps and instance maps.
        layout: one of ``LAYOUTS``; None to detect it.
        inventory: records what is used and what is left out.

    Raises:
        DataError: the annotations cannot be used, or the layout is ambiguous.
    """
    inventory = inventory or Inventory()
    if path.is_file():
        return _of_file(path, layout, inventory)
    if layout in ("classes", "splits"):
        return None
    found: dict[str, Any] = {}
    if layout in (None, "coco") and (files := coco_files(path, inventory)):
        found["coco"] = files
    if layout in (None, "voc") and (xml := voc_files(path)):
        found["voc"] = xml
    if layout in (None, "yolo") and has_yolo(path):
        found["yolo"] = None
    if layout in (None, "masks") and (masked := masked_images(path)):
        found["masks"] = masked
    if layout is not None and layout not in found:
        raise DataError(f"{str(path)!r} has no {LAYOUTS[layout]}", f"--layout is one of {', '.join(LAYOUTS)}", "omit it, or name another")
    chosen = _chosen(path, list(found), wanted)
    if chosen == "coco":
        return _of_objects(*read_coco(path, found["coco"], inventory), "COCO JSON", wanted, inventory)
    if chosen == "voc":
        return _of_objects(*read_voc(path, found["voc"], inventory), "Pascal VOC XML", wanted, inventory)
    if chosen == "yolo":
        found_layout = yolo_layout(path, inventory)
        assert found_layout is not None
        return _of_objects(*read_yolo(path, found_layout), "YOLO text files", wanted, inventory)
    return None if chosen is None else _of_masks(path, found["masks"], wanted, inventory)


def _chosen(path: Path, found: list[str], wanted: Kind | None) -> str | None:
    """Choose one of the layouts that were found in a folder; None if there are none.

    Raises:
        DataError: the layout is ambiguous.
    """
    able = [layout for layout in found if wanted in (None, *_KINDS[layout])] or found[:1]
    if len(able) < 2:
        return able[0] if able else None
    kinds = " and ".join(LAYOUTS[layout] for layout in able)
    fix = f"give --layout {' or --layout '.join(able)}"
    if set(able) == {"voc", "masks"}:
        fix = "give --task detection for the XML, or --task semantic or --task instance for the masks"
    raise DataError(f"{str(path)!r} has {kinds}: either could be meant", "a data set is read in one way", fix)


def _of_file(path: Path, layout: str | None, inventory: Inventory) -> SourceAnnotations | None:
    suffix = path.suffix.lower()
    of_suffix = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(suffix)
    if layout is not None and layout != of_suffix:
        raise DataError(
            f"--layout {layout} for the file {path.name}", "a .json file is COCO JSON, a .yaml file is of YOLO", "omit --layout"
        )
    if of_suffix == "yolo":
        described = yolo_layout(path.parent, inventory, path)
        if described is None:
            raise DataError(f"no image below {str(path.parent)!r} has a YOLO text file", "labels lie beside the images, or in labels/")
        return _of_objects(*read_yolo(path.parent, described), "YOLO text files", None, inventory)
    if suffix == ".json" and (name := foreign_format(path)) is not None:
        raise DataError(f"{path.name} is {name}, which is not read", "COCO JSON, Pascal VOC XML and YOLO text files are", "convert it")
    if suffix != ".json" or not is_coco(path):
        return None
    root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    return _of_objects(*read_coco(root, {path: None}, inventory), "COCO JSON", None, inventory)


def _of_objects(
    images: list[AnnotatedImage], class_names: Sequence[str], how: str, wanted: Kind | None, inventory: Inventory
) -> SourceAnnotations:
    images = _without_repeated(images, inventory)
    objects = [o for image in images for o in image.objects]
    if not objects and not any(image.faults for image in images):
        raise DataError("the annotations name no object", "there must be something to learn")
    masked = sum(o.mask is not None for o in objects)
    masks = 2 * masked > len(objects)  # objects without a mask are reported later, as faults
    if wanted is None and masked:
        if len(objects) < 4 * masked < 3 * len(objects):
            raise DataError(
                f"{masked} of {len(objects)} objects have a mask, the others a box alone", "either could be meant",
                "give --task detection to use the boxes, or --task instance to use the masks",
            )  # fmt: skip
        rectangles = "; the masks are rectangles, as tools write them for boxes" * (masks and all(_is_its_box(o) for o in objects))
        inventory.assume(
            f"{masked} of {len(objects)} objects have masks{rectangles}: the task is {USUAL_TASKS['masks' if masks else 'boxes']}; "
            "--task detection uses the boxes, --task instance the masks, --task semantic their pixels"
        )
    if bare := sum(not image.objects and not image.faults for image in images):
        inventory.assume(f"images without annotations show no object: {bare}")
    left_out = sum(one.annotations + one.count * (one.what == "annotations") for one in inventory.left_out)
    inventory.annotations_found = len(objects) + sum(len(image.faults) for image in images) + left_out
    return SourceAnnotations(_with_splits(images, inventory), tuple(class_names), "masks" if masks else "boxes", how)


def _without_repeated(images: list[AnnotatedImage], inventory: Inventory) -> list[AnnotatedImage]:
    """Remove objects that are listed twice in an image, as in merged files."""
    found, repeated = [], list[str]()
    for image in images:
        unique = {(o.label, o.box, o.crowd, o.difficult, repr(o.mask)): o for o in reversed(image.objects)}
        if len(unique) < len(image.objects):
            repeated += [image.key] * (len(image.objects) - len(unique))
            image = replace(image, objects=tuple(reversed(unique.values())))
        found.append(image)
    inventory.leave_out("annotations", "listed twice, with the same class, box and mask", repeated)
    return found


def _is_its_box(one: ObjectAnnotation) -> bool:
    """Whether the mask of an object is a single polygon with the four corners of its box."""
    if not isinstance(one.mask, list) or len(one.mask) != 1 or not isinstance(one.mask[0], list) or len(one.mask[0]) not in (8, 10):
        return False
    left, top, right, bottom = one.box
    try:
        corners = {(round(float(x)), round(float(y))) for x, y in zip(one.mask[0][::2], one.mask[0][1::2], strict=True)}
    except (TypeError, ValueError, OverflowError):
        return False
    return corners == {(round(x), round(y)) for x in (left, right) for y in (top, bottom)} if math.isfinite(sum(one.box)) else False


def _with_splits(images: list[AnnotatedImage], inventory: Inventory) -> list[AnnotatedImage]:
    """Only the images that have a split, if some have one; otherwise all images."""
    without = [image for image in images if image.split is None]
    if not without or len(without) == len(images):
        return images
    inventory.use(image.path for image in without)
    lost = sum(len(image.objects) + len(image.faults) for image in without)
    inventory.leave_out("images", "in no split, while others are in one", [image.key for image in without], annotations=lost)
    return [image for image in images if image.split is not None]


def _of_masks(path: Path, masked: list[Masked], wanted: Kind | None, inventory: Inventory) -> SourceAnnotations:
    """Read mask images: object masks if they are wanted or are the only ones, otherwise label maps."""
    inventory.use([*(path / name for name in NAME_FILES), *path.rglob("ImageSets/*/*.txt")])
    maps = [one for one in masked if one.labels is not None]
    single = [one for one in masked if one.objects is not None or one.singles]
    if single and maps and wanted is None:
        raise DataError(f"{str(path)!r} has label maps and masks of objects: either could be meant", "a data set is read in one way",
                        "give --task semantic for the label maps, or --task instance for the objects")  # fmt: skip
    if single and (wanted in ("masks", "boxes") or not maps):
        inventory.use(file for one in single for file in (one.labels, one.objects, *one.singles) if file is not None)
        return _of_objects(*read_object_masks(path, single), "mask images of objects", wanted or "masks", inventory)
    inventory.use(one.labels for one in maps if one.labels is not None)
    images, codes = read_label_maps(path, maps)
    return SourceAnnotations(_with_splits(images, inventory), codes.class_names, "maps", "mask images", codes)
