"""Inventory of a data source: what was found, what is used, what is left out and why, and what was assumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, Field, PrivateAttr

from planish.data.sources.listing import EXTENSIONS, MASK_FOLDERS, files_below
from planish.data.sources.unsupported_formats import foreign_format
from planish.printable import printable_names

_EXAMPLES = 3
_NOT_READ = {
    **dict.fromkeys((".heic", ".heif"), "HEIC"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "camera raw"),
    **{".dcm": "DICOM", ".jxl": "JPEG XL", ".svg": "SVG", ".psd": "Photoshop", ".exr": "OpenEXR", ".hdr": "HDR"},
    **dict.fromkeys((".npy", ".npz"), "NumPy"),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), "video"),
}  # fmt: skip
_OBJECT_MASKS = {"instances", "segmentationobject"}


class LeftOut(BaseModel):
    """Items of one kind that are left out for one reason.

    Args:
        what: ``images``, ``annotations``, ``annotation files``, ``masks``, ``rows`` or ``files``.
        reason: why they are left out.
        count: number of items.
        examples: some of the items.
        annotations: number of annotations that are left out along with images or label files.
    """

    what: str
    reason: str
    count: int
    examples: list[str]
    annotations: int = 0

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (", ..." if self.count > len(self.examples) else "")
        with_them = f", with {_counted(self.annotations, 'annotations')}" * bool(self.annotations)
        return f"left out {_counted(self.count, self.what)}{with_them}: {self.reason}" + (f" ({shown})" if shown else "")


class Inventory(BaseModel):
    """The contents of a data source. Readers fill it, and ``account`` adds every file below the source that no reader has recorded.

    Args:
        layout: display name of the layout, such as ``class folders`` or ``COCO JSON``.
        task: name of the task.
        images_found: number of image files below the source (except masks) and of images listed in annotations.
        images_used: number of these that are used.
        annotations_found: number of objects in the annotations; None if images, or pixels, have one class each.
        annotations_used: number of these that are used.
        left_out: everything else, by kind and reason.
        assumptions: how ambiguities were resolved.
    """

    layout: str = ""
    task: str = ""
    images_found: int = 0
    images_used: int = 0
    annotations_found: int | None = None
    annotations_used: int | None = None
    left_out: list[LeftOut] = Field(default_factory=list)
    assumptions: list[str] = Field(default_factory=list)
    _named: set[str] = PrivateAttr(default_factory=set)
    _place: Path | None = PrivateAttr(default=None)

    @property
    def place(self) -> Path | None:
        """The folder or file that was read; another one than the source if that is an archive, or a name."""
        return self._place

    def read_from(self, place: Path) -> None:
        """Record which folder or file was read."""
        self._place = place

    def use(self, files: Iterable[Path]) -> None:
        """Record annotation files, masks and similar files as read."""
        self._named |= {os.fspath(file) for file in files}

    def leave_out(
        self, what: str, reason: str, items: Sequence[Path | str], root: Path | None = None, annotations: int = 0
    ) -> LeftOut | None:
        """Record items that were found and are not used; returns the record, or None if there are no items.

        Args:
            what: see ``LeftOut``.
            reason: see ``LeftOut``.
            items: names, or files.
            root: folder that example files are relative to.
            annotations: see ``LeftOut``.
        """
        if not items:
            return None
        self._named |= {os.fspath(item) for item in items if isinstance(item, Path)}
        examples = [_below(item, root) if isinstance(item, Path) else item for item in items[:_EXAMPLES]]
        shown = printable_names(examples)
        examples = [shown.get(name, name) for name in examples]
        self.left_out.append(LeftOut(what=what, reason=reason, count=len(items), examples=examples, annotations=annotations))
        return self.left_out[-1]

    def assume(self, text: str) -> None:
        """Record how an ambiguity was resolved."""
        if text not in self.assumptions:
            self.assumptions.append(text)

    def account(self, folders: Sequence[Path], images: Sequence[Path], root: Path, unlabelled: str, recursive: bool = True) -> None:
        """Record every file that no reader has recorded as left out, and count the images.

        Args:
            folders: folders to search.
            images: image files that are used.
            root: folder that examples are relative to.
            unlabelled: why image files that are not recorded are left out.
            recursive: whether to search subfolders.
        """
        self.images_used = len(images)
        named = self._named | {os.fspath(image) for image in images}
        others = [file for folder in folders for file in files_below(folder, recursive) if os.fspath(file) not in named]
        if others:  # links may give a file two names
            real = {os.path.realpath(name) for name in named}
            others = [file for file in others if os.path.realpath(file) not in real]
        kinds: dict[tuple[str, str], list[Path]] = {}
        for file in others:
            kinds.setdefault(_kind(file, root, unlabelled), []).append(file)
        for (what, reason), files in sorted(kinds.items()):
            self.leave_out(what, reason, sorted(files), root)
        self.images_found = len(images) + sum(one.count for one in self.left_out if one.what == "images")

    def lines(self) -> list[str]:
        """Readable lines: what was found, what is left out, and what was assumed."""
        found = f"{self.layout}, for {self.task}: {self.images_found:,} images found, {self.images_used:,} used"
        if self.annotations_found is not None:
            found += f"; {self.annotations_found:,} annotations found"
        return [found, *map(str, self.left_out), *(f"assumed: {text}" for text in self.assumptions)]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what.removesuffix('s') if count == 1 else what}"


def combined_inventory(inventories: Mapping[str, Inventory]) -> Inventory:
    """Merge the inventories of several sources, by name, whose images are used together."""
    every = list(inventories.values())
    return Inventory(
        layout=" and ".join(dict.fromkeys(one.layout for one in every)),
        task=every[0].task,
        images_found=sum(one.images_found for one in every),
        images_used=sum(one.images_used for one in every),
        left_out=[
            part.model_copy(update={"reason": f"{part.reason} (in {name})"}) for name, one in inventories.items() for part in one.left_out
        ],
        assumptions=[f"{text} (in {name})" for name, one in inventories.items() for text in one.assumptions],
    )


def _kind(file: Path, root: Path, unlabelled: str) -> tuple[str, str]:
    """What kind of file an unrecorded file is, and why it is left out."""
    suffix = file.suffix.lower()
    folders = {part.lower() for part in Path(_below(file, root)).parts[:-1]}
    if suffix in EXTENSIONS:
        if folders & (MASK_FOLDERS | _OBJECT_MASKS):
            return "masks", "of no image that is used, or not used for this task"
        return "images", unlabelled
    if suffix in _NOT_READ:
        return "images", f"{_NOT_READ[suffix]} files ({suffix}) are not read; convert them to PNG or JPEG"
    if (name := foreign_format(file)) is not None:
        return "annotation files", f"{name} is not read; convert it to COCO JSON"
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        return "files", "manifests are read where DATA names them"
    if suffix in (".json", ".xml", ".txt", ".yaml", ".yml"):
        return "files", f"no annotations of this layout, {suffix}"
    return "files", f"neither images nor annotations, {suffix or 'no suffix'}"


def _below(file: Path, root: Path | None) -> str:
    return file.relative_to(root).as_posix() if root is not None and file.is_relative_to(root) else str(file)
