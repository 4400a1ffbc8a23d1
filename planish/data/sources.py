"""What a user names as data: which files it consists of, what they are for, and what each of them teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.data.annotations.checked import objects_of, size_of
from planish.data.annotations.noted import NotedImage
from planish.data.annotations.source import fitting_task, noted_in
from planish.data.builtin import BUILTIN, builtin_folder, is_builtin
from planish.data.listing import Listed, list_folder
from planish.data.manifest import list_manifest
from planish.data.map_codes import Codes, codes_in, size_in
from planish.data.maps import PaintedMaps, ReadMaps
from planish.data.objects import Objects, counts_of
from planish.errors import DataError
from planish.input_files import damage_reported
from planish.progress import note

Indices = npt.NDArray[np.int64]
_SHOWN = 10
_FEWEST = 3  # images of a kind, to have one in each split
BACKGROUND = "background"
Maps = PaintedMaps | ReadMaps
_OTHER_SHAPE = 0.05  # of the ratio of sides, by which a mask and its image may differ


@dataclass(frozen=True)
class Taught:
    """What images teach.

    Args:
        class_names: of the targets.
        targets: one an image.
        strata: the kind of each image ``(N,)``, of which each split shall have its share.
        strata_names: of the kinds.
        faults: of annotations that were left out: key and reason.
        needed: whether each kind must be in each split.
    """

    class_names: tuple[str, ...]
    targets: Any
    strata: Indices
    strata_names: Sequence[str]
    faults: list[tuple[str, str]] = field(default_factory=list)
    needed: bool = False

    def chosen(self, rows: Indices) -> Any:
        """The targets of some images."""
        if isinstance(self.targets, np.ndarray):
            return self.targets[rows]
        return self.targets.chosen(rows) if isinstance(self.targets, Maps) else tuple(self.targets[int(i)] for i in rows)

    def counts(self, rows: Indices) -> dict[str, int]:
        """Images of each class, or objects that are not ignored."""
        targets, classes = self.chosen(rows), len(self.class_names)
        if isinstance(targets, Maps):
            return targets.counts(self.class_names)
        counts = np.bincount(targets, minlength=classes).tolist() if isinstance(targets, np.ndarray) else counts_of(targets, classes)
        return dict(zip(self.class_names, counts, strict=True))


@dataclass(frozen=True)
class LabelledFiles:
    """Images that lie in folders of their classes, or are listed with them."""

    name: str
    images: list[Listed]
    task: str = "classification"
    how: str = "a folder, or a label, a class"

    @property
    def classes(self) -> int:
        return len({item.label for item in self.images})

    def targets_of(self, listed: Sequence[Any], skip_bad: bool) -> Taught:
        """Class numbers.

        Raises:
            DataError: there are not two classes.
        """
        several_classes(self.name, listed)
        names = tuple(sorted({item.label for item in listed}))
        number = {label: i for i, label in enumerate(names)}
        targets = np.array([number[item.label] for item in listed], dtype=np.int64)
        return Taught(names, targets, targets, names, needed=True)


@dataclass(frozen=True)
class AnnotatedFiles:
    """Images with places in them."""

    name: str
    images: list[NotedImage]
    class_names: tuple[str, ...]
    task: str
    how: str

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def objects(self, listed: Sequence[Any], skip_bad: bool) -> tuple[list[Objects], list[tuple[str, str]]]:
        """What is in some of the images, and what was left out.

        Raises:
            DataError: annotations make no sense; the first ones are named.
        """
        number = {name: i for i, name in enumerate(self.class_names)}
        found: list[Objects] = []
        faults: list[tuple[str, str]] = []
        for item in listed:
            objects, wrong = objects_of(item, *size_of(item), number, masks=self.task != "detection")
            found.append(objects)
            faults += [(item.key, fault) for fault in wrong]
        _tell(faults, skip_bad)
        if ignored := sum(int(one.ignored.sum()) for one in found):
            note(f"{ignored:,} objects are marked as difficult, crowd or ignore: they are neither trained on nor counted")
        return found, faults

    def targets_of(self, listed: Sequence[Any], skip_bad: bool) -> Taught:
        """``Objects``, or label maps made of them; raises as ``objects`` does."""
        found, faults = self.objects(listed, skip_bad)
        strata, names = _strata([one.counted_labels for one in found], self.class_names)
        if self.task == "semantic":
            return Taught((BACKGROUND, *self.class_names), PaintedMaps(found), strata, names, faults)
        return Taught(self.class_names, tuple(found), strata, names, faults)


@dataclass(frozen=True)
class MappedFiles:
    """Images with a class for each pixel, in files."""

    name: str
    images: list[NotedImage]
    codes: Codes
    how: str
    task: str = "semantic"

    @property
    def classes(self) -> int:
        return len(self.codes.class_names)

    def targets_of(self, listed: Sequence[Any], skip_bad: bool) -> Taught:
        """Label maps.

        Raises:
            DataError: maps do not have the shape of their images; the first ones are named.
        """
        label_of = dict(zip(self.codes.codes, self.codes.labels, strict=True))
        there = np.zeros((len(listed), self.classes), bool)
        faults = []
        for i, item in enumerate(listed):
            there[i, [label_of[code] for code in codes_in(item.labels) if code in label_of]] = True
            (high, wide), (height, width) = size_of(item), size_in(item.labels)
            if abs(high * width / (wide * height) - 1) > _OTHER_SHAPE:
                faults.append((item.key, f"the image has {high} x {wide} pixels, its mask {height} x {width}"))
        _tell(faults, skip_bad=False)
        strata, names = _strata([np.flatnonzero(row) for row in there], self.codes.class_names)
        return Taught(self.codes.class_names, ReadMaps([item.labels for item in listed], self.codes, there), strata, names)


def read_source(source: str | Path, root: Path, task: str | None) -> tuple[str, LabelledFiles | AnnotatedFiles | MappedFiles]:
    """Name and content of a source; files are listed, images not read.

    Args:
        source: what the user named, see ``load_images``.
        root: the cache folder, where built-in sets are made.
        task: what it shall be used for; None for what it is for.

    Raises:
        DataError: it does not exist, holds nothing usable, or is not for that task.
    """
    if is_builtin(str(source)):
        name, path = str(source), builtin_folder(str(source), root)
    else:
        path = Path(source).expanduser().absolute()
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
            name = path.name if is_folder else path.stem
        except OSError as error:
            raise DataError(f"{str(source)!r} cannot be read: {error.strerror}") from error
        if not (is_folder or is_file):
            raise DataError(f"{str(source)!r} does not exist", f"data is a folder, a manifest or one of {', '.join(BUILTIN)}")
    with damage_reported(path, DataError, "see the README for what is read"):
        return name, _files_in(path, name, task)


def _files_in(path: Path, name: str, task: str | None) -> LabelledFiles | AnnotatedFiles | MappedFiles:
    told = noted_in(path, task)
    if told is not None:
        fitting = fitting_task(told.task, task, name)
        if told.codes is not None:
            return MappedFiles(name, told.images, told.codes, told.how)
        return AnnotatedFiles(name, told.images, told.class_names, fitting, told.how)
    fitting_task("classification", task, name)
    if path.is_dir():
        return LabelledFiles(name, list_folder(path))
    if path.suffix.lower() in (".csv", ".jsonl", ".ndjson", ".json"):
        return LabelledFiles(name, list_manifest(path))
    raise DataError(f"{str(path)!r} is a file ending in {path.suffix!r}", "a manifest ends in .csv or .jsonl; else data is a folder")


def several_classes(name: str, listed: Sequence[Listed]) -> None:
    """Raises:
    DataError: there is nothing to tell apart.
    """
    labels = {item.label for item in listed}
    if len(labels) < 2:
        found = f"only one class, {next(iter(labels))!r}" if labels else "no usable image"
        raise DataError(f"{name!r} has {found}", "at least two classes are needed to tell apart", "each class has a folder of its own")


def both(first: Any, second: Any) -> Any:
    """The targets of the images of two splits."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return first.joined(second) if isinstance(first, Maps) else (*first, *second)


def _tell(faults: Sequence[tuple[str, str]], skip_bad: bool) -> None:
    """Name the first faults of annotations.

    Raises:
        DataError: there are some, and they shall not be left out.
    """
    if not faults:
        return
    shown = "; ".join(f"{key}: {fault}" for key, fault in faults[:_SHOWN]) + f"; and {len(faults) - _SHOWN} more" * (len(faults) > _SHOWN)
    if not skip_bad:
        raise DataError(f"{len(faults)} annotations make no sense: {shown}", "", "mend them; --skip-bad (skip_bad=True) leaves them out")
    note(f"{len(faults)} annotations make no sense and are left out: {shown}")


def _strata(labels: Sequence[Indices], class_names: Sequence[str]) -> tuple[Indices, list[str]]:
    """The rarest class of each image, so that splits have their share of each; kinds of too few images to share are thrown together."""
    counts = np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]).astype(np.int64), minlength=len(class_names))
    rarest = [min(some.tolist(), key=lambda label: counts[label]) if len(some) else len(class_names) for some in labels]
    kinds, strata, sizes = np.unique(rarest, return_inverse=True, return_counts=True)
    enough = sizes >= _FEWEST
    merged = np.where(enough[strata], np.cumsum(enough)[strata] - 1, 0)
    names = [class_names[k] if k < len(class_names) else "nothing" for k in kinds[enough]] or ["all"]
    return merged.astype(np.int64), names
