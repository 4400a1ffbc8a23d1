"""Data sources: the listed files of a data set with their task and labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from planish.data.annotations.annotated_image import AnnotatedImage
from planish.data.annotations.map_codes import IGNORED, PixelClasses, codes_in, size_in
from planish.data.annotations.validation import objects_of, size_of
from planish.data.cache.files import key_of
from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import ImageFile, Listed
from planish.data.targets.maps import FileLabelMaps, RasterizedLabelMaps
from planish.data.targets.objects import Objects, counts_of
from planish.errors import DataError
from planish.printable import printable_names
from planish.progress import note
from planish.task import Kind

Indices = npt.NDArray[np.int64]
_NONE = np.zeros(0, np.int64)
_SHOWN = 10
_FEWEST = 3  # smallest stratum, so that each split can get one of its images
BACKGROUND = "background"
Maps = RasterizedLabelMaps | FileLabelMaps
_OTHER_SHAPE = 0.05  # relative difference up to which the aspect ratios of a mask and its image match


@dataclass(frozen=True)
class Labels:
    """The targets of images, and the strata for splitting them.

    Args:
        class_names: class names that targets index.
        targets: one target per image.
        strata: stratum of each image for stratified splits, ``(N,)``.
        strata_names: names of the strata.
        faults: key and reason for each invalid annotation that was left out.
        needed: whether each stratum must be present in each split.
        kept: indices of the images that are used, ``(N,)``; None for all. Images whose annotations are all invalid are not used.
    """

    class_names: tuple[str, ...]
    targets: Any
    strata: Indices
    strata_names: Sequence[str]
    faults: list[tuple[str, str]] = field(default_factory=list)
    needed: bool = False
    kept: Indices | None = None

    def chosen(self, rows: Indices) -> Any:
        """The targets of selected images."""
        if isinstance(self.targets, np.ndarray):
            return self.targets[rows]
        return self.targets.chosen(rows) if isinstance(self.targets, Maps) else tuple(self.targets[int(i)] for i in rows)

    def digest(self, index: int) -> str:
        """The hash of the target of an image: of its class, its values, its label map, or its objects in any order."""
        target = self.targets[index]
        if isinstance(self.targets, Maps):
            return key_of(target.shape, target)
        return key_of(self.targets[index : index + 1] if isinstance(self.targets, np.ndarray) else target.sorted_annotations())

    def image_counts(self, rows: Indices) -> dict[str, int]:
        """The number of images that contain each class, without ignored objects; empty for regression targets, and without classes."""
        targets, classes = self.chosen(rows), len(self.class_names)
        if not classes or (isinstance(targets, np.ndarray) and targets.dtype.kind == "f"):
            return {}
        if isinstance(targets, Maps):
            return targets.counts(self.class_names)
        labels = targets if isinstance(targets, np.ndarray) else np.concatenate([_NONE, *(np.unique(t.counted_labels) for t in targets)])
        return dict(zip(self.class_names, np.bincount(labels.astype(np.int64), minlength=classes).tolist(), strict=True))

    def object_counts(self, rows: Indices) -> dict[str, int] | None:
        """The number of objects of each class, without ignored ones; None if targets are not objects."""
        targets = self.chosen(rows)
        if isinstance(targets, np.ndarray | Maps):
            return None
        return dict(zip(self.class_names, counts_of(targets, len(self.class_names)), strict=True))


class DataSource(Protocol):
    """Listed images with their labels. A task with its own reader returns one, see ``Task.annotations``."""

    @property
    def name(self) -> str: ...

    @property
    def images(self) -> Sequence[Any]:
        """One ``ImageFile`` per image, sorted by key."""
        ...

    @property
    def task(self) -> str:
        """Name of the task."""
        ...

    @property
    def how(self) -> str:
        """Display name of the layout."""
        ...

    @property
    def inventory(self) -> Inventory: ...

    @property
    def classes(self) -> int:
        """The number of classes; 1 if there are no classes."""
        ...

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """The targets of selected images. With ``skip_bad``, images with invalid annotations may be left out.

        Args:
            listed: some of the images.
            skip_bad: leave out invalid annotations instead of raising.
            class_names: class names of the model that the images are used with; None for those of the data set.

        Raises:
            DataError: annotations are invalid, or the model lacks a class.
        """
        ...

    def printable(self) -> DataSource:
        """A copy with keys and names that can be printed and stored, see ``planish.printable``."""
        ...


@dataclass(frozen=True)
class LabelledFiles:
    """Images with one class each, from class folders or a manifest."""

    name: str
    images: list[Listed]
    task: str = "classification"
    how: str = "one class each"
    inventory: Inventory = field(default_factory=Inventory)

    @property
    def classes(self) -> int:
        return len({item.label for item in self.images})

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """Class indices of the images.

        Args:
            listed: some of the images.
            skip_bad: ignored, since there are no annotations to leave out.
            class_names: class names of the model that the images are used with; None for all labels, sorted.

        Raises:
            DataError: there are fewer than two classes, or the model lacks a class.
        """
        if class_names is None:
            several_classes(self.name, listed)
        found = sorted({item.label for item in listed})
        names = _model_classes(found, class_names)
        number = {label: i for i, label in enumerate(names)}
        targets = np.array([number[item.label] for item in listed], dtype=np.int64)
        return Labels(names, targets, targets, names, needed=class_names is None)

    def printable(self) -> LabelledFiles:
        """A copy with keys and labels that can be printed and stored."""
        keys, labels = _printable([item.key for item in self.images]), _printable([item.label for item in self.images])
        if not keys and not labels:
            return self
        images = [replace(item, key=keys.get(item.key, item.key), label=labels.get(item.label, item.label)) for item in self.images]
        return replace(self, images=images)


@dataclass(frozen=True)
class AnnotatedFiles:
    """Images with object annotations: boxes, or boxes and masks."""

    name: str
    images: list[AnnotatedImage]
    class_names: tuple[str, ...]
    task: str
    kind: Kind
    how: str
    inventory: Inventory = field(default_factory=Inventory)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """``Objects`` of the images, or label maps rasterized from them.

        With ``skip_bad``, invalid objects are left out. An image whose objects are all invalid is then left out as well, since it would
        otherwise count as an image without objects.

        Args:
            listed: some of the images.
            skip_bad: leave out invalid annotations instead of raising.
            class_names: class names of the model that the images are used with; None for those of the data set.

        Raises:
            DataError: annotations are invalid and ``skip_bad`` is False, or the model lacks a class.
        """
        painted = self.kind == "maps"
        declared = (BACKGROUND, *(name for name in self.class_names if name != BACKGROUND)) if painted else self.class_names
        used = {one.label for image in listed for one in image.objects}
        names = _model_classes(declared, class_names, used)
        if painted and names[0] != BACKGROUND:
            raise DataError(f"the model's first class is {names[0]!r}", "what no mask covers is the background", "give label maps")
        if painted and len(names) > IGNORED:
            raise DataError(
                f"label maps of {len(names)} classes, with the background",
                f"there are at most {IGNORED}",
                "give --task detection or instance",
            )
        of_objects = names[1:] if painted else names
        if painted:
            regions = [image.key for image in listed for one in image.objects if one.label == BACKGROUND]
            reason = f"masks of the class {BACKGROUND!r} are not painted: what no other mask covers is the background"
            if out := self.inventory.leave_out("annotations", reason, regions):
                note(str(out))
            listed = [replace(image, objects=tuple(o for o in image.objects if o.label != BACKGROUND)) for image in listed]
        number = {name: i for i, name in enumerate(of_objects)}
        every: list[Objects] = []
        faults: list[tuple[str, str]] = []
        emptied: dict[int, str] = {}
        for i, item in enumerate(listed):
            objects, wrong = objects_of(item, *size_of(item), number, masks=self.kind != "boxes")
            every.append(objects)
            faults += [(item.key, fault) for fault in wrong]
            if wrong and not len(objects):
                emptied[i] = f"{item.key}: {wrong[0]}"
        _report_faults(faults, skip_bad)
        if resized := [i for i, item in enumerate(listed) if item.size and item.size != (every[i].height, every[i].width)]:
            one, example = listed[resized[0]], every[resized[0]]
            note(
                f"{len(resized)} images have another size than their annotations say: boxes and polygons are scaled; for example {one.key} "
                f"has {example.height} x {example.width} pixels instead of {one.size[0]} x {one.size[1]}"
            )
        lost = {listed[i].key for i in emptied}
        single = [f"{key}: {fault}" for key, fault in faults if key not in lost]
        self.inventory.leave_out("annotations", "not valid", single)
        with_them = sum(annotations_of(listed[i]) for i in emptied)
        if out := self.inventory.leave_out("images", "no valid annotation", [*emptied.values()], annotations=with_them):
            note(str(out))
        self.inventory.images_used -= len(emptied)
        kept = np.setdiff1d(np.arange(len(listed)), [*emptied]).astype(np.int64)
        found = [every[i] for i in kept]
        self.inventory.annotations_used = sum(int((~one.ignored).sum()) for one in found)
        ignored = [listed[i].key for i in kept for _ in range(int(every[i].ignored.sum()))]
        what = "marked as difficult, crowd or ignore, so neither trained on nor counted"
        if out := self.inventory.leave_out("annotations", what, ignored):
            note(str(out))
        strata, kinds = _strata([one.counted_labels for one in found], of_objects)
        return Labels(names, RasterizedLabelMaps(found) if painted else tuple(found), strata, kinds, faults, kept=kept)

    def printable(self) -> AnnotatedFiles:
        """A copy with keys and class names that can be printed and stored."""
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
class LabelMapFiles:
    """Images with label maps stored as image files."""

    name: str
    images: list[AnnotatedImage]
    codes: PixelClasses
    how: str
    task: str = "semantic"
    inventory: Inventory = field(default_factory=Inventory)

    @property
    def classes(self) -> int:
        return len(self.codes.class_names)

    def targets_of(self, listed: Sequence[Any], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """Label maps of the images. With ``skip_bad``, images whose maps have another aspect ratio are left out.

        Args:
            listed: some of the images.
            skip_bad: leave out images whose maps have another aspect ratio instead of raising.
            class_names: class names of the model that the images are used with; None for those of the data set.

        Raises:
            DataError: maps have another aspect ratio than their images, there are fewer than two classes, or the model lacks a class.
        """
        names = _model_classes(self.codes.class_names, class_names, {self.codes.class_names[i] for i in self.codes.labels})
        if len(names) < 2:
            raise DataError(
                f"masks of 1 classes: all of {self.name!r} hold {names[0]!r} alone", "there are two classes to tell apart, or more",
                "is the background a class of its own?",
            )  # fmt: skip
        codes = replace(self.codes, labels=tuple(names.index(self.codes.class_names[i]) for i in self.codes.labels), class_names=names)
        label_of = dict(zip(codes.codes, codes.labels, strict=True))
        there = np.zeros((len(listed), len(names)), bool)
        faults, kept = [], []
        for i, item in enumerate(listed):
            there[i, [label_of[code] for code in codes_in(item.labels) if code in label_of]] = True
            (high, wide), (height, width) = size_of(item), size_in(item.labels)
            if abs(high * width / (wide * height) - 1) > _OTHER_SHAPE:
                faults.append((item.key, f"the image has {high} x {wide} pixels, its mask {height} x {width}"))
            else:
                kept.append(i)
        _report_faults(faults, skip_bad)
        self.inventory.leave_out("images", "their mask has another shape", [f"{key}: {fault}" for key, fault in faults])
        self.inventory.images_used -= len(faults)
        strata, kinds = _strata([np.flatnonzero(row) for row in there[kept]], names)
        maps = FileLabelMaps([listed[i].labels for i in kept], codes, there[kept])
        return Labels(names, maps, strata, kinds, faults, kept=np.array(kept, np.int64))

    def printable(self) -> LabelMapFiles:
        """A copy with keys and class names that can be printed and stored."""
        keys, labels = _printable([image.key for image in self.images]), _printable(self.codes.class_names)
        if not keys and not labels:
            return self
        images = [replace(image, key=keys.get(image.key, image.key)) for image in self.images]
        names = tuple(labels.get(name, name) for name in self.codes.class_names)
        return replace(self, images=images, codes=replace(self.codes, class_names=names))


def annotations_of(item: ImageFile) -> int:
    """The number of objects in the annotations of an image, including invalid ones."""
    return len(item.objects) + len(item.faults) if isinstance(item, AnnotatedImage) else 0


def several_classes(name: str, listed: Sequence[Listed]) -> None:
    """Raises:
    DataError: there are fewer than two classes.
    """
    labels = {item.label for item in listed}
    if len(labels) < 2:
        found = f"only one class, {next(iter(labels))!r}" if labels else "no usable image"
        inner = sorted({parts[-1] for item in listed if item.label in (parts := Path(item.key).parts[:-1])[:-1]})
        fix = f"if the folders in it are classes ({_listing(inner)}), give the folder that they are in" if len(inner) > 1 else ""
        raise DataError(
            f"{name!r} has {found}", "at least two classes are needed to tell apart", fix or "each class has a folder of its own"
        )


def _model_classes(declared: Sequence[str], class_names: Sequence[str] | None, used: Collection[str] | None = None) -> tuple[str, ...]:
    """The class names that targets index: those of the data set, or those of the model that it is used with, in the model's order.

    Args:
        declared: class names of the data set.
        class_names: class names of the model; None without a model.
        used: those of ``declared`` that occur; the model may lack the others. None for all.

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
        + (f"; {len(extra)} that do not occur are not the model's: {_listing(extra)}" if extra else "")
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
    DataError: a given split lacks a class.
    """
    classes: dict[Any, set[str]] = {}
    for item in listed:
        classes.setdefault(item.split, set()).add(item.label)
    everything = set().union(*classes.values())
    for split, names in classes.items():
        if missing := sorted(everything - names):
            raise DataError(f"no image of {_listing(missing)} in {split}", "each class must be in each split")


def both(first: Any, second: Any) -> Any:
    """Concatenate the targets of two splits."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return first.joined(second) if isinstance(first, Maps) else (*first, *second)


def _report_faults(faults: Sequence[tuple[str, str]], skip_bad: bool) -> None:
    """Log the first invalid annotations, or raise.

    Raises:
        DataError: there are invalid annotations and ``skip_bad`` is False.
    """
    if not faults:
        return
    shown = "; ".join(f"{key}: {fault}" for key, fault in faults[:_SHOWN]) + f"; and {len(faults) - _SHOWN} more" * (len(faults) > _SHOWN)
    if not skip_bad:
        raise DataError(f"{len(faults)} annotations make no sense: {shown}", "", "mend them; --skip-bad (skip_bad=True) leaves them out")
    note(f"{len(faults)} annotations make no sense and are left out: {shown}")


def _strata(labels: Sequence[Indices], class_names: Sequence[str]) -> tuple[Indices, list[str]]:
    """The stratum of each image, which is its rarest class, and the names of the strata; strata that are too small are merged."""
    counts = np.bincount(np.concatenate([*labels, np.zeros(0, np.int64)]).astype(np.int64), minlength=len(class_names))
    rarest = [min(some.tolist(), key=lambda label: counts[label]) if len(some) else len(class_names) for some in labels]
    kinds, strata, sizes = np.unique(rarest, return_inverse=True, return_counts=True)
    enough = sizes >= _FEWEST
    merged = np.where(enough[strata], np.cumsum(enough)[strata] - 1, 0)
    names = [class_names[k] if k < len(class_names) else "nothing" for k in kinds[enough]] or ["all"]
    return merged.astype(np.int64), names
