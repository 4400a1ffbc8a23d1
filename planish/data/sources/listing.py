"""Listing of image files and their class labels in class folders, without opening the files."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from planish.errors import DataError
from planish.split_assignment import AssignedSplit

GivenSplit = AssignedSplit
_SETS: tuple[tuple[str, GivenSplit], ...] = (
    ("train", "train"), ("training", "train"), ("val", "validation"), ("validation", "validation"), ("test", "test"), ("testing", "test"),
)  # fmt: skip
SPLIT_WORDS: dict[str, GivenSplit] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    **{f"{word}{between}set": split for word, split in _SETS for between in ("", "_", "-")},
}
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "img_dir", "leftimg8bit"}
MASK_FOLDERS = {
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "segmentationclass",
    "gt",
    "groundtruth",
    "ground_truth",
    "ann_dir",
    "gtfine",
}
EXTENSIONS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".j2k", ".avif"),
}

_OF_SYSTEMS = {  # files and folders that operating systems and Python make
    *("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}


class ImageFile(Protocol):
    """One image of a source: ``Listed``, ``AnnotatedImage``, or the equivalent of a task that reads its own data."""

    @property
    def key(self) -> str:
        """Stable name of the image: its path relative to the data folder."""
        ...

    @property
    def path(self) -> Path:
        """Path of the image file."""
        ...

    @property
    def split(self) -> GivenSplit | None:
        """Split defined by the source; None if it defines none."""
        ...


@dataclass(frozen=True, slots=True)
class Listed:
    """An image file with its class.

    Args:
        key: stable name of the image: its path relative to the data folder.
        path: path of the image file.
        label: class name.
        split: split defined by the source; None if it defines none.
    """

    key: str
    path: Path
    label: str
    split: GivenSplit | None


def list_folder(root: Path, layout: str | None = None) -> list[Listed]:
    """List the image files in class folders, with or without ``train/ val/ test/`` above them, sorted by key.

    Images of a held-out split without class folders have no labels, and are skipped if ``train/`` has classes. Hidden files, files of
    operating systems, files without an image extension, and folders already visited through a link are skipped.

    Args:
        root: the folder.
        layout: ``classes`` treats every folder as a class, whatever its name; ``splits`` treats folders named like splits as splits, and
            class folders next to them as train; None raises if both are possible.

    Raises:
        DataError: there are no images or no class folders, a class folder is empty, or the layout is ambiguous.
    """
    try:
        folders = subfolders(root)
        given = [] if layout == "classes" else [f for f in folders if f.name.lower() in SPLIT_WORDS]
        others = [f for f in folders if f not in given]
        if given and others and layout is None:
            raise DataError(
                f"{str(root)!r} has {_names(given)} next to {_names(others)}",
                "there are either split folders or class folders",
                "move the others away; --layout classes takes each folder as a class, --layout splits takes the others as train",
            )
        if not given and layout == "splits":
            raise DataError(f"{str(root)!r} has the folders {_names(folders)}", "splits are called train, val or validation, and test")
        if not given:
            if layout is None:
                _refuse_other_layouts(root, folders)
            return sorted(_list_classes(root, root, None), key=lambda item: item.key)
        splits: dict[GivenSplit, list[Path]] = {}
        for folder in given:
            splits.setdefault(SPLIT_WORDS[folder.name.lower()], []).append(folder)
        if others and "train" in splits:
            raise DataError(f"{str(root)!r} has {_names(others)} next to {_names(given)}", "classes are below the splits", "move them away")
        if any(len(same) > 1 for same in splits.values()):
            raise DataError(f"{str(root)!r} has the folders {_names(given)}", "each split may be there once", "merge or rename them")
        classes = {split: subfolders(same[0]) for split, same in splits.items()} | ({"train": others} if others else {})
    except PermissionError as error:
        raise DataError(f"folder {str(root)!r} cannot be read: {error.strerror}") from error
    folder_of = {split: same[0] for split, same in splits.items()}
    if classes.get("train"):  # images to be labelled, as in competitions: the inventory reports them
        classes = {split: own for split, own in classes.items() if own or split == "train" or not image_files(folder_of[split])}
    listed = [item for split, own in classes.items() for item in _list_classes(root, folder_of.get(split, root), split, own)]
    return sorted(listed, key=lambda item: item.key)


def _refuse_other_layouts(root: Path, folders: list[Path]) -> None:
    """Reject folders that are probably not classes.

    Raises:
        DataError: the folders are images and masks whose names do not match, images next to annotation files, or splits or batches.
    """
    names = {folder.name.lower() for folder in folders}
    if names & IMAGE_FOLDERS and (names & MASK_FOLDERS or _same_stems(folders)):
        raise DataError(
            f"{str(root)!r} has the folders {_names(folders)}: images and masks or label files that do not belong together by name",
            "a mask is an image in masks/ or labels/ with the name of its image, perhaps with _mask, _label or _segmentation after it; "
            "a label file has that name as well",
            "rename them, and save masks as PNG; --layout classes takes each folder as a class",
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
                "convert them, for example with labelme2coco; --layout classes takes each folder as a class all the same",
            )
    named = {SPLIT_WORDS[word] for folder in folders for word in re.split(r"[^a-z]+", folder.name.lower()) if word in SPLIT_WORDS}
    if len(named) > 1:
        raise DataError(
            f"{str(root)!r} has the folders {_names(folders)}, which look like splits",
            "classes are folders, and splits are called train, val and test",
            "rename them, with a folder for each class in each; --layout classes takes them as classes",
        )
    inner = [{folder.name for folder in subfolders(each)} for each in folders]
    if len(folders) > 1 and all(len(names) > 1 and names == inner[0] for names in inner):
        raise DataError(
            f"{_names(folders)} have the same folders in them: {', '.join(sorted(inner[0])[:5])}",
            "classes are folders, and splits are called train, val and test",
            f"rename {_names(folders)} if they are splits; --layout classes takes them as classes",
        )


def _same_stems(folders: list[Path]) -> bool:
    """Whether there are two folders or more, and their files have the same names except for suffixes."""
    stems = [{file.stem for file in folder.iterdir() if not _ignored(file.name)} for folder in folders]
    return len(stems) > 1 and bool(stems[0]) and all(each == stems[0] for each in stems)


def _list_classes(root: Path, folder: Path, split: GivenSplit | None, classes: list[Path] | None = None) -> list[Listed]:
    classes = subfolders(folder) if classes is None else classes
    if not classes:
        loose = sum(1 for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS)
        found = f"{loose} images and no class folders" if loose else "no images"
        raise DataError(
            f"{str(folder)!r} has {found}",
            "each class has a folder of its own: DATA/cat/1.png",
            "or give a manifest (CSV: path,label)" + "; planish optimize --unlabelled takes images without labels" * bool(loose),
        )
    listed = []
    empty = []
    for class_folder in classes:
        try:
            files = image_files(class_folder)
        except PermissionError as error:
            raise DataError(f"folder {str(error.filename)!r} cannot be read: {error.strerror}") from error
        listed += [Listed(p.relative_to(root).as_posix(), p, _class_name(class_folder), split) for p in files]
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


def _class_name(folder: Path) -> str:
    """The name of a folder; accents have another Unicode form on macOS, and would make another class."""
    return unicodedata.normalize("NFC", folder.name)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, without hidden ones and those of operating systems."""
    return sorted(f for f in folder.iterdir() if not _ignored(f.name) and f.is_dir())


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, by extension."""
    return [file for file in files_below(folder) if file.suffix.lower() in EXTENSIONS]


def files_below(folder: Path, recursive: bool = True) -> list[Path]:
    """All files below a folder except hidden ones; each real folder is visited once, so that cyclic links terminate."""
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
                # Path.is_dir is False for a link to itself, where entry.is_dir would raise
                if not (entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_dir())):
                    files.append(Path(entry.path))
                elif recursive:
                    pending.append(entry.path)
    return files


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def _names(folders: list[Path]) -> str:
    return ", ".join(f.name + "/" for f in folders[:5]) + (", ..." if len(folders) > 5 else "")
