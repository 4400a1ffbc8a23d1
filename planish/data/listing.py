"""What a source consists of: files with their labels, from class folders or from a manifest. Nothing is opened here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from planish.errors import DataError
from planish.split_assignment import AssignedSplit

GivenSplit = AssignedSplit
SPLIT_WORDS: dict[str, GivenSplit] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "img_dir", "leftimg8bit"}
MASK_FOLDERS = {"masks", "mask", "labels", "label", "annotations", "segmentationclass", "gt", "groundtruth", "ann_dir", "gtfine"}
EXTENSIONS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".avif"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One image file.

    Args:
        key: stable name, the path below the data folder.
        path: where it lies.
        label: name of its class.
        split: where the source puts it; None where it does not say.
    """

    key: str
    path: Path
    label: str
    split: GivenSplit | None


def list_folder(root: Path) -> list[Listed]:
    """Files of a folder of class folders, with or without ``train/ val/ test/`` above them, in the order of their keys.

    Hidden files, ``__MACOSX``, files that are no images by their ending, and folders already visited through a link are passed over.

    Raises:
        DataError: no images, no class folders, an empty class folder.
    """
    try:
        folders = _subfolders(root)
    except PermissionError as error:
        raise DataError(f"folder {str(root)!r} cannot be read: {error.strerror}") from error
    given = [f for f in folders if f.name.lower() in SPLIT_WORDS]
    if given and len(given) == len(folders):
        words = [SPLIT_WORDS[f.name.lower()] for f in given]
        if len(set(words)) < len(words):
            raise DataError(f"{str(root)!r} has the folders {_names(given)}", "each split may be there once", "merge or rename them")
        listed = [item for folder in given for item in _list_classes(root, folder, SPLIT_WORDS[folder.name.lower()])]
    elif given:
        others = [f for f in folders if f not in given]
        raise DataError(
            f"{str(root)!r} has {_names(given)} next to {_names(others)}",
            "there are either split folders or class folders",
            "move the others away",
        )
    else:
        _refuse_other_layouts(root, folders)
        listed = _list_classes(root, root, None)
    return sorted(listed, key=lambda item: item.key)


def _refuse_other_layouts(root: Path, folders: list[Path]) -> None:
    """Folders that are no classes: images beside masks that were not recognised, or beside files with annotations.

    Raises:
        DataError: see above.
    """
    names = {folder.name.lower() for folder in folders}
    if names & IMAGE_FOLDERS and names & MASK_FOLDERS:
        raise DataError(
            f"{str(root)!r} has the folders {_names(folders)}: images and masks whose files do not belong together by name",
            "a mask has the name of its image, perhaps with _mask, _label or _segmentation after it",
            "rename the masks, or give a manifest for classes of images",
        )
    if names and names <= {"labels", "images", "annotations"}:
        raise DataError(
            f"{str(root)!r} has the folders {_names(folders)}", "no annotations in them are understood", "see the README for formats"
        )
    for folder in folders:
        beside = {file.stem for file in folder.iterdir() if file.suffix.lower() in (".json", ".xml")}
        pictured = [file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS]
        if pictured and sum(file.stem in beside for file in pictured) * 2 > len(pictured):
            example = next(file for file in folder.iterdir() if file.suffix.lower() in (".json", ".xml"))
            raise DataError(
                f"{folder.name}/ has a file such as {example.name} beside each image",
                "those look like annotations (labelme, VIA, ...) of a kind that is not read; COCO, Pascal VOC and YOLO are",
                "convert them, for example with labelme2coco; or move them away if folders are classes",
            )


def _list_classes(root: Path, folder: Path, split: GivenSplit | None) -> list[Listed]:
    classes = _subfolders(folder)
    if not classes:
        loose = sum(1 for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS)
        found = f"{loose} images and no class folders" if loose else "no images"
        raise DataError(
            f"{str(folder)!r} has {found}", "each class has a folder of its own: DATA/cat/1.png", "or give a manifest (CSV: path,label)"
        )
    listed = []
    empty = []
    for class_folder in classes:
        try:
            files = image_files(class_folder)
        except PermissionError as error:
            raise DataError(f"folder {str(error.filename)!r} cannot be read: {error.strerror}") from error
        listed += [Listed(p.relative_to(root).as_posix(), p, class_folder.name, split) for p in files]
        if not files:
            empty.append(class_folder.name)
    if len(empty) == len(classes):
        raise DataError(f"{str(folder)!r} has no images", f"files ending in {', '.join(sorted(EXTENSIONS)[:6])}, ... are looked for")
    if empty:
        raise DataError(
            f"class folders without images in {str(folder)!r}: {', '.join(empty[:10])}",
            "each class needs images",
            "delete the folder or fill it",
        )
    return listed


def _subfolders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if not _ignored(f.name) and f.is_dir())


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder; each real folder is visited once, so that links in a circle end."""
    files: list[Path] = []
    visited: set[str] = set()
    pending = [str(folder)]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        with os.scandir(current) as entries:
            for entry in entries:
                if _ignored(entry.name):
                    continue
                if entry.is_dir():
                    pending.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    files.append(Path(entry.path))
    return files


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "@eaDir")


def _names(folders: list[Path]) -> str:
    return ", ".join(f.name + "/" for f in folders[:5]) + (", ..." if len(folders) > 5 else "")
