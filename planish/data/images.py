"""``load_images``: loads a folder, a manifest or a built-in data set into four splits, with a report of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from planish.artifact import InputSpec, Preprocessing
from planish.data.cache.files import content_hashes, key_of, whole
from planish.data.cache.images import ImageStore, decoded, resized
from planish.data.duplicates import THRESHOLD, near_duplicate_groups
from planish.data.sources.listing import ImageFile
from planish.data.sources.reading import read_source, report_found, split_layout
from planish.data.sources.report import BadFile, DataReport, report_duplicates, require_used
from planish.data.sources.source import (
    DataSource,
    LabelledFiles,
    annotations_of,
    both,
    same_classes,
    several_classes,
)
from planish.data.sources.unlabelled import refuse_unlabelled
from planish.data.split_images import split_images
from planish.data.tiling.tiles import tiled_images
from planish.errors import DataError
from planish.files.reading import wrap_parse_errors
from planish.files.workspace import cache_root
from planish.progress import note
from planish.split_assignment import AssignedSplit, SplitAssignment
from planish.task import SplitName, one_class_each

if TYPE_CHECKING:
    from planish.artifact import Pixels

Indices = npt.NDArray[np.int64]
_SMALLEST_STD = 1 / 255  # one grey level; lower bound for data sets of a single colour
_SHOWN = 10


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One split of a data set; a ``planish.task.Split``.

    Args:
        keys: image paths relative to the data folder.
        targets: see ``planish.task.Split``.
        paths: paths of the image files.
        groups: near-duplicate group of each image, ``(N,)``.
    """

    keys: tuple[str, ...]
    targets: Any
    paths: tuple[Path, ...] = field(repr=False)
    groups: Indices = field(repr=False)
    _hashes: npt.NDArray[np.uint8] = field(repr=False)
    _store: ImageStore = field(repr=False)
    _rows: Indices = field(repr=False)
    _cache: Path = field(repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """All images at the model's input size, uint8 ``(N, h, w, C)``, read-only and memory-mapped; computed once and cached on disk, or,
        if they do not fit in the cache, made whenever they are selected (``ImagesOnDemand``).

        They are identical to the output of ``planish.data.preprocessing.preprocess`` for each file.

        Raises:
            DataError: the disk is full, or a file has become unreadable since it was listed.
        """
        store, rows = self._store, self._rows
        side, grey = preprocessing.decode_side, spec.channels == 1
        if store.serves(rows, spec.channels, side):
            return resized(store, rows, spec, preprocessing, self._cache)
        if store.buffer is None:
            store = store.decoded_as(side, grey)
        else:
            store = decoded(self.paths, self._hashes, side, grey, self._cache)
            rows = np.arange(len(self))
            if store.bad:
                i, reason = next(iter(store.bad.items()))
                raise DataError(f"{self.keys[i]!r} can no longer be decoded: {reason}")
        return resized(store, rows, spec, preprocessing, self._cache)

    def file_bytes(self, index: int) -> bytes:
        """The undecoded bytes of an image file."""
        return self.paths[index].read_bytes()

    def known_to(self, assignment: SplitAssignment) -> npt.NDArray[np.bool_]:
        """Which images are contained in an assignment, bool ``(N,)``."""
        return np.array([split is not None for split in assignment.find(self._hashes)], dtype=bool)

    @property
    def thumbnails(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        """What near duplicates are found by: grey thumbnails ``(N, THUMB, THUMB)`` and mean colours ``(N, 3)``."""
        return self._store.thumbs[self._rows], self._store.means[self._rows]

    def selected(self, rows: Indices, targets: Any) -> ImageSplit:
        """Some of the images, with other targets."""
        return ImageSplit(
            keys=tuple(self.keys[i] for i in rows),
            targets=targets,
            paths=tuple(self.paths[i] for i in rows),
            groups=self.groups[rows],
            _hashes=self._hashes[rows],
            _store=self._store,
            _rows=self._rows[rows],
            _cache=self._cache,
        )

    def joined(self, other: ImageSplit) -> ImageSplit:
        """The images of this split followed by those of another split of the same data set."""
        return ImageSplit(
            keys=self.keys + other.keys,
            targets=both(self.targets, other.targets),
            paths=self.paths + other.paths,
            groups=np.concatenate([self.groups, other.groups]),
            _hashes=np.concatenate([self._hashes, other._hashes]),
            _store=self._store,
            _rows=np.concatenate([self._rows, other._rows]),
            _cache=self._cache,
        )


@dataclass(frozen=True, eq=False)
class ImageData:
    """A loaded data set.

    Args:
        name: name of the folder, manifest or built-in data set.
        class_names: class names that targets index; sorted for classification, unless a model's class names are used.
        splits: ``train``, ``calibration`` (part of train), ``validation``, ``test``.
        channels: 1 (grey) or 3 (RGB); unless set in ``Decoding``, 1 if all images are grey, else 3.
        typical_height: median height in pixels, after shrinking to ``decode_side``.
        typical_width: median width, likewise.
        mean: per-channel mean over train, on the 0..1 scale; every image has the same weight.
        std: per-channel standard deviation, likewise; at least one grey level.
        report: what was found in the data set.
        assignment: split of each image, identified by content, including images assigned earlier; to be saved with models trained on them.
        known: number of images that were in the earlier assignment.
        given: splits that the source defines.
        task: name of the task.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[SplitName, ImageSplit]
    channels: Literal[1, 3]
    typical_height: int
    typical_width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    report: DataReport
    assignment: SplitAssignment
    known: int = 0
    given: tuple[AssignedSplit, ...] = ()
    task: str = "classification"

    @property
    def one_class_each(self) -> bool:
        """Whether each image has exactly one class as its target, rather than boxes, masks, label maps or regression values."""
        return one_class_each(self.splits["train"].targets)

    def require(self, *names: SplitName) -> None:
        """Require that these splits have images.

        Raises:
            DataError: one of them is empty.
        """
        counts = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items() if name != "calibration")
        for name in names:
            if not len(self.splits[name]):
                raise DataError(
                    f"no image of {self.name!r} is in {name} ({counts})",
                    "images that a model was trained, chosen or judged by stay in the split that they were in then",
                    "name a split that has images, or add new ones",
                )

    def all_in_test(self, *, but: SplitName | None = None) -> ImageData:
        """The same data set whose test split contains the images of all splits, except those of ``but``."""
        kept = [split for name, split in self.splits.items() if name not in (but, "calibration")]
        whole = kept[0]
        for split in kept[1:]:
            whole = whole.joined(split)
        return replace(self, splits={**self.splits, "test": whole})


@dataclass(frozen=True)
class Decoding:
    """How images are decoded.

    Args:
        side: the shorter side of larger images is shrunk to this many pixels.
        channels: 1 to decode everything as grey, 3 as RGB; None to infer it from the images.

    Raises:
        DataError: ``side`` or ``channels`` is invalid.
    """

    side: int = 256
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise DataError(f"channels={self.channels}", "images are grey (1) or RGB (3)")
        if self.side < 1:
            raise DataError(f"decode_side={self.side}", "it is at least 1 pixel")


_AS_THEY_ARE = Decoding()


def load_images(
    source: str | Path,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    decoding: Decoding = _AS_THEY_ARE,
    task: str | None = None,
    assignment: SplitAssignment | None = None,
    class_names: Sequence[str] | None = None,
    cache_dir: Path | None = None,
) -> ImageData:
    """Load a data set.

    Args:
        source: a folder with one subfolder per class, with or without ``train/ val/ test/``; a manifest (``.csv``, or ``.jsonl`` with one
            object per line: path, label, optional split); a folder with COCO, Pascal VOC or YOLO annotations or with mask images; a COCO
            file; a YOLO YAML file; an archive, shards or Parquet files, see ``planish.data.packed.unpack``; or a built-in name:
            ``fashion-mini``, ``fashion-scenes``, ``cifar10``, ``fashion-mnist``, ``mnist``. Prefix an ambiguous source with its layout:
            ``classes:``, ``splits:``, ``coco:``, ``voc:``, ``yolo:`` or ``masks:``.
        seed: random seed for the splits, unless an ``assignment`` is given.
        skip_bad: skip broken files and invalid annotations instead of raising.
        decoding: how images are decoded.
        task: ``classification``, ``detection``, ``instance``, ``semantic``, or the name of an installed task; None to infer it from the
            data.
        assignment: split assignment saved with the model that the images are used with; see ``split_images``. Splits may then be empty.
        class_names: class names of the model that the images are used with: the images may have fewer classes, in any order, and targets
            follow the model's order. None for the classes of the data set.
        cache_dir: cache folder; None for ``$PLANISH_CACHE`` or ``~/.cache/planish``.

    Raises:
        DataError: the source does not exist, has no usable images, cannot be split, does not fit the task, or is ambiguous; files are
            broken; the images have no labels (``load_unlabelled`` takes those); or the model lacks a class.
    """
    root = cache_root(cache_dir)
    name, content = read_source(source, root, task)
    refuse_unlabelled(name, content)
    report_found(content)
    if isinstance(content, LabelledFiles) and class_names is None:
        several_classes(name, content.images)  # fail before any file is read
        if assignment is None:
            same_classes(content.images)
    cut_from = tiled_images(Path(split_layout(source)[0]).expanduser())
    data = load_listed(
        name, content, seed=seed, skip_bad=skip_bad, decoding=decoding, assignment=assignment, class_names=class_names, root=root
    )
    if cut_from is None:
        return data
    _report_moved_tiles(cut_from, assignment)
    return replace(data, assignment=data.assignment.updated(cut_from))


def load_listed(
    name: str,
    content: DataSource,
    *,
    seed: int = 0,
    skip_bad: bool = False,
    decoding: Decoding = _AS_THEY_ARE,
    assignment: SplitAssignment | None = None,
    class_names: Sequence[str] | None = None,
    root: Path | None = None,
) -> ImageData:
    """Load a data set whose files have already been listed.

    Args:
        name: name of the data set.
        content: the files and their labels.
        seed: see ``load_images``.
        skip_bad: see ``load_images``.
        decoding: see ``load_images``.
        assignment: see ``load_images``.
        class_names: see ``load_images``.
        root: cache folder; None for the default.

    Raises:
        DataError: see ``load_images``.
    """
    root = root or cache_root(None)
    listed: Sequence[ImageFile] = content.images
    paths = [item.path for item in listed]
    hashes, reasons = content_hashes(paths, root)
    store = decoded(paths, hashes, decoding.side, decoding.channels == 1, root)
    reasons = store.bad | reasons
    bad = [BadFile(key=listed[i].key, reason=reasons[i]) for i in sorted(reasons)]
    if bad:
        _report_broken_files(bad, len(listed), skip_bad)
        with_them = sum(annotations_of(listed[i]) for i in reasons)
        broken = [f"{one.key}: {one.reason}" for one in bad]
        content.inventory.leave_out("images", "broken or missing file", broken, annotations=with_them)
        content.inventory.images_used -= len(bad)
    for text, rows in store.remarks.items():
        note(f"{len(rows)} of {len(listed)} images {text}: for example {listed[rows[0]].key}")
    good = np.array([i for i in range(len(listed)) if i not in reasons], dtype=np.int64)
    if not len(good):
        raise DataError(
            f"{name!r} has no usable image: all {len(listed)} are broken", "at least one image must be readable", "copy them again"
        )
    listed = [listed[i] for i in good]
    with wrap_parse_errors(Path(name), DataError, "annotations fit their images"):
        labels = content.targets_of(listed, skip_bad, class_names)
    if labels.kept is not None:
        good, listed = good[labels.kept], [listed[i] for i in labels.kept]
        require_used(name, listed, labels.faults)
    bad += [BadFile(key=key, reason=reason) for key, reason in labels.faults]
    groups = _groups(store, root)[good]
    found = split_images(listed, labels, hashes[good], groups, seed, assignment, strict=class_names is None)
    parts = found.rows
    report = DataReport(
        name=name,
        task=content.task,
        images=len(listed),
        split_sizes={part: len(rows) for part, rows in parts.items()},
        counts={part: labels.image_counts(rows) for part, rows in parts.items()},
        objects={part: objects for part, rows in parts.items() if (objects := labels.object_counts(rows)) is not None} or None,
        inventory=content.inventory,
        how=found.how,
        seed=found.assignment.seed,
        bad=bad,
        **report_duplicates([item.key for item in listed], hashes[good], groups, labels.digest, parts),
    )
    for leak in report.leaks:
        note(f"{leak.images} images of {leak.second} are also in {leak.first} (copies or near copies), for example {leak.examples[0][1]}")
    shapes = store.shapes[good]
    depth: Literal[1, 3] = 3 if (decoding.channels or int(shapes[:, 2].max())) == 3 else 1
    train = good[parts["train"]] if len(parts["train"]) else good
    mean = store.means[train].mean(axis=0)
    std = np.sqrt(np.maximum(0, store.squares[train].mean(axis=0) - mean**2))
    return ImageData(
        name=name,
        class_names=labels.class_names,
        splits={
            part: ImageSplit(
                keys=tuple(listed[i].key for i in rows),
                targets=labels.chosen(rows),
                paths=tuple(listed[i].path for i in rows),
                groups=groups[rows],
                _hashes=hashes[good[rows]],
                _store=store,
                _rows=good[rows],
                _cache=root,
            )
            for part, rows in parts.items()
        },
        channels=depth,
        typical_height=int(np.median(shapes[:, 0])),
        typical_width=int(np.median(shapes[:, 1])),
        mean=tuple(mean[:depth].tolist()),
        std=tuple(np.maximum(std, _SMALLEST_STD)[:depth].tolist()),
        report=report,
        assignment=found.assignment,
        known=found.known,
        given=found.given,
        task=content.task,
    )


def task_in(source: str | Path) -> str:
    """Infer the task of a source from its files and annotations, without decoding images.

    Raises:
        DataError: see ``load_images``.
    """
    return read_source(source, cache_root(None), None)[1].task


def require_classes(source: str | Path, what: str) -> None:
    """Require a classification data set, for functions that only support images with one class each.

    Args:
        source: see ``load_images``.
        what: what requires it, for the error message.

    Raises:
        DataError: images do not have one class each; or see ``load_images``.
    """
    name, content = read_source(source, cache_root(None), None)
    refuse_unlabelled(name, content)
    if not isinstance(content, LabelledFiles):
        raise DataError(f"{what} for {name!r}", f"that is for images of one class each, and these have {content.how}, for {content.task}")


def images_per_class(source: str | Path) -> float:
    """The mean number of images per class outside the test split; files are listed, not read.

    Raises:
        DataError: see ``load_images``.
    """
    content = read_source(source, cache_root(None), None)[1]
    count: int = sum(item.split != "test" for item in content.images)
    return count / max(1, content.classes)


def _report_moved_tiles(cut_from: SplitAssignment, earlier: SplitAssignment | None) -> None:
    """Log how many of the large images that these tiles were cut from are in a different split of the earlier assignment."""
    moved = sum(earlier.splits.get(short, split) != split for short, split in cut_from.splits.items()) if earlier is not None else 0
    if moved:
        note(f"{moved} of the {len(cut_from.splits)} images that these tiles were cut from are in another split of the model")


def _report_broken_files(bad: list[BadFile], total: int, skip_bad: bool) -> None:
    shown = "; ".join(f"{b.key}: {b.reason.rstrip('.')}" for b in bad[:_SHOWN]) + (
        f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    )
    if not skip_bad:
        raise DataError(
            f"{len(bad)} of {total} files are broken: {shown}", "all files must be readable", "--skip-bad (skip_bad=True) leaves them out"
        )
    note(f"{len(bad)} of {total} files are broken and left out: {shown}")


def _groups(store: ImageStore, root: Path) -> Indices:
    folder = root / "near-duplicates" / key_of(store.key, THRESHOLD)
    if not folder.is_dir():
        groups = near_duplicate_groups(store.thumbs, store.means)
        with whole(folder) as partial:
            np.save(partial / "groups.npy", groups)
    return np.asarray(np.load(folder / "groups.npy"), dtype=np.int64)
