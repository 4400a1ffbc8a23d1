"""What a user names as data: which files it consists of, what they are for, and what each of them teaches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
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
from planish.printable import printable_names
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

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Taught:
        """Class numbers.

        Args:
            listed: some of the images.
            skip_bad: leave out annotations that make no sense; there are none here.
            class_names: of the model that the images are for; None for all labels, sorted.

        Raises:
            DataError: there are not two classes, or some that the model lacks.
        """
        if class_names is None:
            several_classes(self.name, listed)
        found = sorted({item.label for item in listed})
        names = _model_classes(found, class_names)
        number = {label: i for i, label in enumerate(names)}
        targets = np.array([number[item.label] for item in listed], dtype=np.int64)
        return Taught(names, targets, targets, names, needed=class_names is None)

    def printable(self) -> LabelledFiles:
        """With keys and labels that can be printed and stored."""
        keys, labels = _printable([item.key for item in self.images]), _printable([item.label for item in self.images])
        if not keys and not labels:
            return self
        images = [replace(item, key=keys.get(item.key, item.key), label=labels.get(item.label, item.label)) for item in self.images]
        return replace(self, images=images)


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

    def objects(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str]) -> tuple[list[Objects], list[tuple[str, str]]]:
        """What is in some of the images, by these classes, and what was left out.

        Raises:
            DataError: annotations make no sense; the first ones are named.
        """
        number = {name: i for i, name in enumerate(class_names)}
        found: list[Objects] = []
        faults: list[tuple[str, str]] = []
        for item in listed:
            objects, wrong = objects_of(item, *size_of(item), number, masks=self.task != "detection")
            found.append(objects)
            faults += [(item.key, fault) for fault in wrong]
        _tell(faults, skip_bad)
        if resized := [i for i, item in enumerate(listed) if item.size and item.size != (found[i].height, found[i].width)]:
            one, example = listed[resized[0]], found[resized[0]]
            note(
                f"{len(resized)} images have another size than their annotations say: boxes and polygons are scaled; for example {one.key} "
                f"has {example.height} x {example.width} pixels instead of {one.size[0]} x {one.size[1]}"
            )
        if ignored := sum(int(one.ignored.sum()) for one in found):
            note(f"{ignored:,} objects are marked as difficult, crowd or ignore: they are neither trained on nor counted")
        return found, faults

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Taught:
        """``Objects``, or label maps made of them.

        Args:
            listed: some of the images.
            skip_bad: leave out annotations that make no sense.
            class_names: of the model that the images are for; None for those of the data.

        Raises:
            DataError: annotations make no sense, or there are classes that the model lacks.
        """
        painted = self.task == "semantic"
        declared = (BACKGROUND, *(name for name in self.class_names if name != BACKGROUND)) if painted else self.class_names
        used = {one.label for image in listed for one in image.objects}
        names = _model_classes(declared, class_names, used)
        if painted and names[0] != BACKGROUND:
            raise DataError(f"the model's first class is {names[0]!r}", "what no mask covers is the background", "give label maps")
        of_objects = names[1:] if painted else names
        if painted and (regions := sum(one.label == BACKGROUND for image in listed for one in image.objects)):
            note(f"{regions} masks of the class {BACKGROUND!r} are not painted: what no other mask covers is the background")
            listed = [replace(image, objects=tuple(o for o in image.objects if o.label != BACKGROUND)) for image in listed]
        found, faults = self.objects(listed, skip_bad, of_objects)
        strata, kinds = _strata([one.counted_labels for one in found], of_objects)
        return Taught(names, PaintedMaps(found) if painted else tuple(found), strata, kinds, faults)

    def printable(self) -> AnnotatedFiles:
        """With keys and class names that can be printed and stored."""
        keys, labels = _printable([image.key for image in self.images]), _printable(self.class_names)
        if not keys and not labels:
            return self
        images = [
            replace(
                image,
                key=keys.get(image.key, image.key),
                objects=tuple(replace(one, label=labels.get(one.label, one.label)) for one in image.objects) if labels else image.objects,
            )
            for image in self.images
        ]
        return replace(self, images=images, class_names=tuple(labels.get(name, name) for name in self.class_names))


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

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Taught:
        """Label maps.

        Args:
            listed: some of the images.
            skip_bad: of no effect: maps are not left out.
            class_names: of the model that the images are for; None for those of the data.

        Raises:
            DataError: maps do not have the shape of their images, the first ones are named; or there are classes that the model lacks.
        """
        names = _model_classes(self.codes.class_names, class_names)
        if len(names) < 2:
            raise DataError(
                f"masks of 1 classes: all of {self.name!r} hold {names[0]!r} alone", "there are two classes to tell apart, or more",
                "is the background a class of its own?",
            )  # fmt: skip
        codes = replace(self.codes, labels=tuple(names.index(self.codes.class_names[i]) for i in self.codes.labels), class_names=names)
        label_of = dict(zip(codes.codes, codes.labels, strict=True))
        there = np.zeros((len(listed), len(names)), bool)
        faults = []
        for i, item in enumerate(listed):
            there[i, [label_of[code] for code in codes_in(item.labels) if code in label_of]] = True
            (high, wide), (height, width) = size_of(item), size_in(item.labels)
            if abs(high * width / (wide * height) - 1) > _OTHER_SHAPE:
                faults.append((item.key, f"the image has {high} x {wide} pixels, its mask {height} x {width}"))
        _tell(faults, skip_bad=False)
        strata, kinds = _strata([np.flatnonzero(row) for row in there], names)
        return Taught(names, ReadMaps([item.labels for item in listed], codes, there), strata, kinds)

    def printable(self) -> MappedFiles:
        """With keys and class names that can be printed and stored."""
        keys, labels = _printable([image.key for image in self.images]), _printable(self.codes.class_names)
        if not keys and not labels:
            return self
        images = [replace(image, key=keys.get(image.key, image.key)) for image in self.images]
        names = tuple(labels.get(name, name) for name in self.codes.class_names)
        return replace(self, images=images, codes=replace(self.codes, class_names=names))


def read_source(source: str | Path, root: Path, task: str | None) -> tuple[str, LabelledFiles | AnnotatedFiles | MappedFiles]:
    """Name and content of a source; files are listed, images not read.

    Args:
        source: what the user named, see ``load_images``.
        root: the cache folder, where built-in sets are made.
        task: what it shall be used for; None for what it is for.

    Raises:
        DataError: it does not exist, holds nothing usable, or is not for that task.
    """
    name, found = _read(source, root, task)
    return printable_names([name]).get(name, name), found.printable()


def _read(source: str | Path, root: Path, task: str | None) -> tuple[str, LabelledFiles | AnnotatedFiles | MappedFiles]:
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


def _model_classes(declared: Sequence[str], class_names: Sequence[str] | None, used: Collection[str] | None = None) -> tuple[str, ...]:
    """The class names that targets are numbered by: the data's own, or those of the model that the data is for, in the model's order.

    Args:
        declared: the data's classes.
        class_names: the model's; None where there is no model.
        used: those of ``declared`` that occur; others need not be the model's. None for all.

    Raises:
        DataError: the model lacks a class that occurs.
    """
    if class_names is None or tuple(class_names) == tuple(declared):
        return tuple(declared)
    known = set(class_names)
    lacking = [name for name in declared if name not in known and (used is None or name in used)]
    if lacking:
        raise DataError(
            f"the model lacks {len(lacking)} of the classes in the images: {_listing(lacking)}; it has {_listing(class_names)}",
            "classes are matched by name; images may have fewer than the model, in any order, but no others",
            "rename the classes, or leave those images out",
        )
    absent = [name for name in class_names if name not in declared]
    extra = [name for name in declared if name not in known]
    note(
        "classes are matched to the model's by name, in the model's order"
        + (f"; {len(absent)} of its {len(class_names)} are not in the images: {_listing(absent)}" if absent else "")
        + (f"; {len(extra)} that no object has are not the model's: {_listing(extra)}" if extra else "")
    )
    return tuple(class_names)


def _printable(names: Sequence[str]) -> dict[str, str]:
    changed = printable_names(names)
    if changed:
        example = next(iter(changed.values()))
        note(f"{len(changed)} names of files or classes are not printable UTF-8: their bytes are shown as %XX, for example {example!r}")
    return changed


def _listing(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)


def same_classes(listed: Sequence[Listed]) -> None:
    """Raises:
    DataError: a split that the source gives lacks a class.
    """
    classes: dict[Any, set[str]] = {}
    for item in listed:
        classes.setdefault(item.split, set()).add(item.label)
    everything = set().union(*classes.values())
    for split, names in classes.items():
        if missing := sorted(everything - names):
            raise DataError(f"no image of {_listing(missing)} in {split}", "each class must be in each split")


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
