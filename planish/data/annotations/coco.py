"""COCO's JSON: boxes, polygons and run lengths (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from planish.data.annotations.noted import NotedImage, NotedObject
from planish.data.listing import SPLIT_WORDS, GivenSplit
from planish.errors import DataError


def coco_files(root: Path) -> dict[Path, GivenSplit | None]:
    """The COCO files of a folder with their splits: one in each split's folder, ``annotations/*_train*.json``, or a single one."""
    found: dict[Path, GivenSplit | None] = {}
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and f.name.lower() in SPLIT_WORDS):
        for file in sorted(folder.glob("*.json")):
            found[file] = SPLIT_WORDS[folder.name.lower()]
    if not found:
        for file in [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]:
            words = [w for w in SPLIT_WORDS if w in file.stem.lower()]
            if not file.stem.startswith(("captions", "person_keypoints")):
                found[file] = SPLIT_WORDS[words[0]] if words else None
    return {file: split for file, split in found.items() if is_coco(file)}


def read_coco(root: Path, files: dict[Path, GivenSplit | None]) -> tuple[list[NotedImage], tuple[str, ...]]:
    """Images and class names, sorted as their numbers are.

    Args:
        root: keys are paths below it.
        files: from ``coco_files``.

    Raises:
        DataError: a file cannot be read, lacks something, or names images outside ``root``.
    """
    images: list[NotedImage] = []
    names: dict[int, str] = {}
    for file, split in files.items():
        content = _load(file)
        here = {int(c["id"]): str(c["name"]) for c in content.get("categories", [])}
        for number, name in here.items():
            if names.setdefault(number, name) != name:
                raise DataError(f"class {number} is {names[number]!r} in one file and {name!r} in {file.name}", "all files number alike")
        of_image: dict[Any, list[NotedObject]] = {}
        for one in content.get("annotations", []):
            of_image.setdefault(one.get("image_id"), []).append(_object(one, here, file))
        known = set()
        for image in content["images"]:
            known.add(image.get("id"))
            path = _path(root, file, str(image.get("file_name", "")), split)
            size = (int(image["height"]), int(image["width"])) if "height" in image and "width" in image else None
            key = path.relative_to(root).as_posix()
            images.append(NotedImage(key, path, split, tuple(of_image.get(image.get("id"), ())), size))
        if strangers := [number for number in of_image if number not in known]:
            raise DataError(
                f"{file.name} has annotations of image {strangers[0]!r}, which it does not list", "each belongs to a listed image"
            )
    used = sorted(number for number in names if any(o.label == names[number] for image in images for o in image.objects))
    return sorted(images, key=lambda image: image.key), tuple(names[number] for number in used)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}", "it is COCO's JSON", "write it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file} has no list of images", "COCO's JSON has images, annotations and categories")
    return content


def is_coco(file: Path) -> bool:
    """Whether a JSON file begins as COCO's do."""
    with file.open("rb") as opened:
        head = opened.read(1 << 16)
    return b'"images"' in head or b'"annotations"' in head or b'"categories"' in head or b'"info"' in head


def _object(one: Any, names: dict[int, str], file: Path) -> NotedObject:
    try:
        number = int(one["category_id"])
        left, top, width, height = (float(v) for v in one["bbox"])
        if number not in names:
            raise DataError(
                f"annotation {one.get('id')} in {file.name} is of class {number}", f"classes are {', '.join(map(str, names))}", "name it"
            )
        area = float(one["area"]) if one.get("area") else None
        return NotedObject(
            names[number],
            (left, top, left + width, top + height),
            crowd=bool(one.get("iscrowd", 0)),
            difficult=bool(one.get("ignore", 0) or one.get("difficult", 0)),
            area=area,
            mask=one.get("segmentation") or None,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"annotation {one.get('id') if isinstance(one, dict) else one!r} in {file.name} cannot be understood: {error}",
            "it has image_id, category_id and bbox: left, top, width, height",
        ) from error


def _path(root: Path, file: Path, name: str, split: GivenSplit | None) -> Path:
    """Where an image lies: beside the file, in a folder ``images``, or in one named like the file's split."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{file.name} names the image {name!r}", "images lie below the data folder, under relative names")
    folders = [file.parent, root, file.parent / "images", root / "images"]
    suffix = file.stem.rpartition("_")[2]
    folders += [root / suffix, root / "images" / suffix, *((root / split, root / "images" / split) if split else ())]
    for folder in folders:
        if (folder / parts).is_file():
            return folder / parts
    return file.parent / parts
