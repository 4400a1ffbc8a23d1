"""Reader of COCO JSON: boxes, polygons and run-length encoded masks (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation, note_unused
from planish.data.annotations.validation import are_corners
from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import SPLIT_WORDS, GivenSplit
from planish.data.sources.moved_files import moved_files
from planish.data.sources.unsupported_formats import PANOPTIC, foreign_format
from planish.errors import DataError
from planish.files.reading import DAMAGED, describe, read_json
from planish.progress import note

_HEAD = 1 << 16  # bytes read from the start of a file to recognize it
_NEARLY = 0.001  # tolerance for rounding
_OTHER_KINDS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")


def coco_files(root: Path, inventory: Inventory | None = None) -> dict[Path, GivenSplit | None]:
    """The COCO files of a folder with their splits: in split folders, or named like ``annotations/*_train*.json``, or a single file.

    Args:
        root: the folder.
        inventory: records files for other tasks.

    Raises:
        DataError: all files are for other tasks.
    """
    inventory = inventory or Inventory()
    found: dict[Path, GivenSplit | None] = {}
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and f.name.lower() in SPLIT_WORDS):
        found |= dict.fromkeys(_json_files(folder), SPLIT_WORDS[folder.name.lower()])
    if not any(is_coco(file) for file in found):
        found = _splits_by_name([file for folder in (root, root / "annotations") for file in _json_files(folder)], inventory)
    other = [file for file in found if (file.stem.startswith(_OTHER_KINDS) and is_coco(file)) or foreign_format(file) == PANOPTIC]
    instances = {f: split for f, split in found.items() if f not in other and foreign_format(f) is None and is_coco(f)}
    if other and not instances:
        raise DataError(
            f"{', '.join(file.name for file in other[:5])} in {str(root)!r} are for another task: captions, key points, panoptic, ...",
            "instances*.json has boxes, and masks",
            "add it; --layout classes takes folders as classes",
        )
    inventory.leave_out("annotation files", "for another task: captions, key points, panoptic segmentation, no labels", other, root)
    return instances


def _json_files(folder: Path) -> list[Path]:
    return (
        sorted(file for file in folder.iterdir() if file.suffix.lower() == ".json" and not file.name.startswith("."))
        if folder.is_dir()
        else []
    )


def _splits_by_name(files: list[Path], inventory: Inventory) -> dict[Path, GivenSplit | None]:
    """The split of each file by the first or last word of its name, or None; all None if every file has the same held-out split."""
    found: dict[Path, GivenSplit | None] = {}
    for file in files:
        words = [word for word in re.split(r"[^a-z]+", file.stem.lower()) if word]
        named = [SPLIT_WORDS[word] for word in (words[:1] + words[-1:]) if word in SPLIT_WORDS]
        found[file] = named[-1] if named else None
    if len(set(found.values())) == 1 and (split := next(iter(found.values()))) not in (None, "train"):
        inventory.assume(f"{', '.join(file.name for file in files[:3])} is the only annotation file, so its images are not all of {split}")
        return dict.fromkeys(files)
    return found


def read_coco(
    root: Path, files: dict[Path, GivenSplit | None], inventory: Inventory | None = None
) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Read the annotated images, sorted by key, and the class names, in the order of their category ids.

    Args:
        root: folder that keys are relative to.
        files: from ``coco_files``.
        inventory: records the files that are read, and those without annotations.

    Raises:
        DataError: a file cannot be read, lacks a required field, lists an image twice, or refers to images outside ``root``.
    """
    inventory = inventory or Inventory()
    inventory.use(files)
    images: dict[Path, AnnotatedImage] = {}
    names: dict[int, str] = {}
    loaded = {file: _load(file) for file in files}
    empty = [file for file, content in loaded.items() if not content.get("annotations") and not _lists_tiles(content)]
    if len(empty) < len(loaded):
        inventory.leave_out("annotation files", "no annotations in it; images that only it lists are left out", empty, root)
        for file in empty:
            del loaded[file]
    for file, content in loaded.items():
        try:
            found, here = _read_file(root, file, files[file], content)
        except DAMAGED as error:
            reason = f"no {error}" if isinstance(error, KeyError) else describe(error)
            raise DataError(f"{file.name} cannot be understood: {reason}", "it is COCO's JSON: images, annotations, categories") from error
        for number, name in here.items():
            if names.setdefault(number, name) != name:
                raise DataError(f"class {number} is {names[number]!r} in one file and {name!r} in {file.name}", "all files number alike")
        for image in found:
            if image.path in images:
                raise DataError(
                    f"{image.key} is listed twice, the second time in {file.name}", "an image is listed once", "merge its entries"
                )
            images[image.path] = image
    objects = [one for image in images.values() for one in image.objects]
    if objects and all(one.crowd for one in objects):
        note(f"all {len(objects)} annotations have iscrowd=1, as CVAT writes brush masks: they are taken as single objects")
        single = {path: tuple(replace(one, crowd=False) for one in image.objects) for path, image in images.items()}
        images = {path: replace(image, objects=single[path]) for path, image in images.items()}
    ordered = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    note_unused(ordered, objects)
    return sorted(images.values(), key=lambda image: image.key), ordered


def _lists_tiles(content: dict[str, Any]) -> bool:
    """Whether a file is of ``planish.data.tiling``: without annotations they show no object; other files may be of unlabelled images."""
    return all(isinstance(image, dict) and {"source", "left", "top"} <= image.keys() for image in content["images"])


def _read_file(root: Path, file: Path, split: GivenSplit | None, content: dict[str, Any]) -> tuple[list[AnnotatedImage], dict[int, str]]:
    """The images and classes of one file. Content that is not COCO raises arbitrary exceptions, which the caller converts."""
    here = _categories(file, content)
    of_image, faults = _objects(file, content, here)
    images: list[AnnotatedImage] = []
    known: dict[Any, str] = {}
    repeated = 0
    paths = _paths(root, file, dict.fromkeys(map(_file_name, content["images"])), split)
    for image in content["images"]:
        number, name = _number(image["id"]), _file_name(image)
        if known.get(number) == name:
            repeated += 1
            continue
        if number in known:
            raise DataError(
                f"image id {number} is listed twice in {file.name} ({known[number]}, {name})",
                "annotations find their image by its id",
                "give merged files new ids",
            )
        known[number] = name
        path = paths[name]
        size = _size(file, name, image)
        images.append(
            AnnotatedImage(
                path.relative_to(root).as_posix(), path, split, tuple(of_image.get(number, ())), size, faults=tuple(faults.get(number, ()))
            )
        )
    if repeated:
        note(f"{file.name} lists {repeated} images twice, with one id and name; each is used once")
    if strangers := [number for number in (*of_image, *faults) if number not in known]:
        raise DataError(f"{file.name} has annotations of image {strangers[0]!r}, which it does not list", "each belongs to a listed image")
    _refuse_other_boxes(file, images)
    return images, here


def _refuse_other_boxes(file: Path, images: list[AnnotatedImage]) -> None:
    """Raises:
    DataError: the boxes are normalized, or left, top, right and bottom.
    """
    rows = [(*one.box, *image.size[::-1]) for image in images if image.size for one in image.objects]
    boxes = np.array(rows, np.float64).reshape(-1, 6)
    first, last, sides = boxes[:, :2], boxes[:, 2:4], boxes[:, 4:]
    extent, rule = last - first, "a bbox is left, top, width and height in pixels"
    if len(boxes) and (last <= 1 + _NEARLY).all() and (sides > 2).all():
        raise DataError(f"all boxes in {file.name} are within the first pixel, as normalized boxes are", rule, "multiply them by the sides")
    if (extent <= sides + _NEARLY).all() and are_corners(first, extent, last > sides + 1):
        raise DataError(
            f"boxes in {file.name} are left, top, right and bottom: read as left, top, width and height, many go beyond the image",
            rule,
            "subtract left and top from the last two numbers",
        )


def _categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Class names by category id.

    Raises:
        DataError: a category has no name, an id has two names, or there are no categories.
    """
    found: dict[int, str] = {}
    for category in content.get("categories") or []:
        number, name = _category_number(category["id"]), category["name"]
        if not isinstance(name, str | int) or not str(name).strip():
            raise DataError(f"category {number} in {file.name} has the name {name!r}", "each category has a name")
        text = unicodedata.normalize("NFC", str(name).strip())
        if found.setdefault(number, text) != text:
            raise DataError(
                f"category {number} in {file.name} is {found[number]!r} and {text!r}", "each category has a number of its own",
                "give merged categories new numbers",
            )  # fmt: skip
    if len(set(found.values())) < len(found):
        twice = sorted(name for name in set(found.values()) if list(found.values()).count(name) > 1)
        note(f"{file.name} has several categories called {', '.join(map(repr, twice[:5]))}: they are taken as one")
    if content.get("annotations") and not found:
        raise DataError(f"{file.name} has no categories", "COCO's JSON has images, annotations and categories")
    return found


def _objects(file: Path, content: dict[str, Any], names: dict[int, str]) -> tuple[dict[Any, list[ObjectAnnotation]], dict[Any, list[str]]]:
    """The objects of each image id, and descriptions of its invalid annotations."""
    found: dict[Any, list[ObjectAnnotation]] = {}
    faults: dict[Any, list[str]] = {}
    for place, one in enumerate(content.get("annotations") or []):
        image = _number(one["image_id"])
        try:
            found.setdefault(image, []).append(_object(one, names))
        except ValueError as error:
            faults.setdefault(image, []).append(f"annotation {one.get('id', place)!r} in {file.name} {error}")
    return found, faults


def _size(file: Path, name: str, image: dict[str, Any]) -> tuple[int, int] | None:
    """The height and width of an image in the file; None if one is missing."""
    sides = [image.get(side) for side in ("height", "width")]
    if not all(sides):
        return None
    try:
        height, width = (round(float(side)) for side in sides)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the image {name!r} in {file.name} has the height and width {sides}", "they are numbers of pixels") from error
    if min(height, width) < 1:
        raise DataError(f"the image {name!r} in {file.name} has the height and width {sides}", "they are at least 1 pixel")
    return height, width


def _number(value: Any) -> Any:
    """Normalize an id, which some tools write as a number in one place and as text in another."""
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _load(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}", "it is COCO's JSON", "write it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file} has no list of images", "COCO's JSON has images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key) or [], list) or not all(isinstance(one, dict) for one in content.get(key) or []):
            raise DataError(f"{file.name} has {str(content[key])[:60]} for {key}", f"{key} is a list of objects: [{{...}}, {{...}}]")
    return content


def is_coco(file: Path) -> bool:
    """Whether the beginning of a JSON file has a key of the COCO format; a file of categories alone, as beside YOLO files, is none."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_HEAD + 1)
    others = (b'"categories"', b'"info"') if len(head) > _HEAD else ()  # images and annotations may follow
    return any(key in head for key in (b'"images"', b'"annotations"', *others))


def _object(one: dict[str, Any], names: dict[int, str]) -> ObjectAnnotation:
    """Raises:
    ValueError: the annotation is invalid; the message continues "annotation 7 in FILE ".
    """
    try:
        number = _category_number(one["category_id"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"has the category_id {one.get('category_id')!r}, which is no number") from None
    if number not in names:
        raise ValueError(f"is of class {str(number)[:20]}; classes are {', '.join(map(str, list(names)[:20]))}")
    try:
        left, top, width, height = (float(v) for v in one.get("bbox") or _box_of_polygons(one.get("segmentation")))
    except DAMAGED:
        raise ValueError(f"has the bbox {str(one.get('bbox'))[:60]}; it is four numbers: left, top, width, height") from None
    return ObjectAnnotation(
        names[number],
        (left, top, left + width, top + height),
        crowd=_flag(one, "iscrowd"),
        difficult=_flag(one, "ignore") or _flag(one, "difficult"),
        area=_area(one.get("area")),
        mask=_mask(one.get("segmentation")),
    )


def _category_number(value: Any) -> int:
    """Raises:
    ValueError: it is not a whole number.
    """
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and value != number):
        raise ValueError(f"the category id {value} is no whole number")
    return number


def _box_of_polygons(polygons: Any) -> tuple[float, float, float, float]:
    """Left, top, width and height of polygons, for annotations without a box."""
    across, down = ([float(v) for polygon in polygons for v in polygon[first::2]] for first in (0, 1))
    return min(across), min(down), max(across) - min(across), max(down) - min(down)


def _mask(value: Any) -> Any:
    """The mask of an object; None without one, which some tools write as ``[]`` or ``[[]]``."""
    return None if not value or (isinstance(value, list) and value == [[]] * len(value)) else value


def _flag(one: dict[str, Any], name: str) -> bool:
    """Read a field that is 0 or 1, which some tools write as text."""
    value = one.get(name)
    text = str(0 if value is None or value == "" else value)[:20].strip().lower()
    if text in ("0", "0.0", "false"):
        return False
    if text in ("1", "1.0", "true"):
        return True
    raise ValueError(f"has {name} {text!r}; it is 0 or 1")


def _area(value: Any) -> float | None:
    """The area in pixels; None if it is not a positive number, so that the area of the box is used."""
    try:
        area = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return area if 0 < area < math.inf else None


def _file_name(image: dict[str, Any]) -> str:
    name = image.get("file_name")
    return "" if name is None else str(name)


def _paths(root: Path, file: Path, names: Iterable[str], split: GivenSplit | None) -> dict[str, Path]:
    """The path of each image of a file; if no image is there, see ``moved_files``.

    Raises:
        DataError: a name leads outside the data folder, or fits several files.
    """
    found: dict[str, Path] = {}
    refused: DataError | None = None
    folders = _image_folders(root, file, split)
    for name in names:
        try:
            found[name] = _path(root, file, name, folders)
        except DataError as error:
            refused = refused or error
            found[name] = root
    usable = [name for name in found if name and ".." not in PurePosixPath(name.replace("\\", "/")).parts and _is_file_name(name)]
    if len(usable) == len(found) and not any(path.is_file() for path in found.values()) and (moved := moved_files(file.name, root, usable)):
        note(f"{file.name} names {usable[0]}, which is taken from here: {moved[usable[0]].relative_to(root).as_posix()}; likewise for all")
        return moved
    if refused is not None:
        raise refused
    return found


def _image_folders(root: Path, file: Path, split: GivenSplit | None) -> list[Path]:
    """Where the images of a COCO file may be: next to it, in ``images/`` or ``data/``, or in a folder named like its split."""
    suffix = file.stem.rpartition("_")[2]
    places = [file.parent, root, file.parent / "images", root / "images", file.parent.parent / "images", file.parent.parent, root / "data"]
    places += [root / suffix, root / "images" / suffix]
    if split is not None:
        starts = ((folder, re.match("[a-z]+", folder.name.lower())) for folder in sorted(root.iterdir()) if folder.is_dir())
        named = [folder for folder, start in starts if start and SPLIT_WORDS.get(start[0]) == split]
        places += [root / split, root / "images" / split, *named]
    return [folder for folder in dict.fromkeys(places) if folder.is_relative_to(root)]


def _path(root: Path, file: Path, name: str, folders: Iterable[Path]) -> Path:
    """The path of an image in the first of the folders that has it.

    Raises:
        DataError: the name leads outside the data folder.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if ".." in parts.parts and not parts.is_absolute():  # such as ../images/ relative to annotations/
        beside = Path(os.path.normpath(file.parent / parts))
        parts = PurePosixPath(beside.relative_to(root)) if beside.is_relative_to(root) else parts
    if not name or parts.is_absolute() or ".." in parts.parts or not _is_file_name(name):
        raise DataError(f"{file.name} names the image {name!r}", "images lie below the data folder, under relative names")
    written = [PurePosixPath(unicodedata.normalize(form, str(parts))) for form in ("NFC", "NFD")]  # accents on other OS
    for folder, path in ((folder, path) for path in dict.fromkeys((parts, *written)) for folder in folders):
        try:
            if (folder / path).is_file():
                return folder / path
        except OSError as error:  # for example, a name that is too long
            raise DataError(f"{file.name} names the image {name[:60]!r}...: {error.strerror}", "it is a file's name") from error
    return file.parent / parts


def _is_file_name(name: str) -> bool:
    """Whether a name is valid in a file system: JSON strings may contain NUL and lone surrogates."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False
