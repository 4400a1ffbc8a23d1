"""Which split every image belongs to, by the content of its file: kept with a run, a model and a bundle, and used by all that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from planish.errors import BundleError
from planish.files.schema import read_versioned

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AssignedSplit = Literal["train", "validation", "test"]
ASSIGNED_SPLITS: tuple[AssignedSplit, ...] = ("train", "validation", "test")
SPLITS_FILE = "splits.json"
_HASH_BYTES = 8  # kept of a file's SHA-256: two of a million images agree by chance in one of 30 million data sets


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SplitsFile:
    """``splits.json``: the splits of the images that a model was made with.

    An image is written as the first 16 hexadecimal digits of the SHA-256 of its file.

    Args:
        seed: with which images that are in no split are assigned.
        train: images; those for calibration are among them.
        validation: images.
        test: images.
    """

    seed: int
    train: list[str]
    validation: list[str]
    test: list[str]
    schema_version: Literal[1] = 1


@plain_dataclass(frozen=True)
class SplitAssignment:
    """The split of every image that a model was trained, chosen or judged by.

    Images are known by the SHA-256 of their files, so that renaming or moving them changes nothing and no file name leaves the machine.
    Calibration images are part of train.

    Args:
        seed: with which images that are not in it are assigned.
        splits: by the first 16 hexadecimal digits of the hash.
    """

    seed: int
    splits: Mapping[str, AssignedSplit]

    @classmethod
    def of(cls, hashes: npt.NDArray[np.uint8], splits: Sequence[AssignedSplit], seed: int) -> SplitAssignment:
        """Of images with these hashes, ``(N, 32)``. Of copies in several splits one in train counts first, then one in validation."""
        found: dict[str, AssignedSplit] = {}
        for name in reversed(ASSIGNED_SPLITS):
            found |= {short: name for short, split in zip(_short(hashes), splits, strict=True) if split == name}
        return cls(seed, found)

    def find(self, hashes: npt.NDArray[np.uint8]) -> list[AssignedSplit | None]:
        """The split of each of these images, ``(N, 32)``; None for those that are not in it."""
        return [self.splits.get(short) for short in _short(hashes)]

    def updated(self, later: SplitAssignment) -> SplitAssignment:
        """With the images of ``later`` as well; what is in this one keeps its split."""
        return SplitAssignment(self.seed, {**later.splits, **self.splits})

    def counts(self) -> dict[AssignedSplit, int]:
        """Images by split."""
        counted = Counter(self.splits.values())
        return {name: counted[name] for name in ASSIGNED_SPLITS}

    def save(self, file: Path) -> None:
        """Write JSON, whole, then rename it into place."""
        train, validation, test = (sorted(short for short, split in self.splits.items() if split == name) for name in ASSIGNED_SPLITS)
        content = TypeAdapter(SplitsFile).dump_json(SplitsFile(self.seed, train, validation, test))
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(content)
        partial.replace(file)

    @classmethod
    def load(cls, file: Path) -> SplitAssignment:
        """Read what ``save`` wrote.

        Raises:
            BundleError: it is damaged, or of another version.
        """
        saved = read_versioned(file, SplitsFile, "it holds the splits of the images", "make the model again")
        return cls(saved.seed, {short: name for name in reversed(ASSIGNED_SPLITS) for short in getattr(saved, name)})


def assignment_beside(model: Path) -> SplitAssignment | None:
    """What is kept with a model: in its folder, or beside its file; None where nothing is. Networks in a run's ``work`` share the run's.

    Raises:
        BundleError: it is there, but damaged.
    """
    if not model.exists():
        return None
    folder = model.absolute() if model.is_dir() else model.absolute().parent
    candidates = [folder / SPLITS_FILE, *([folder.parent.parent / SPLITS_FILE] if folder.parent.name == "work" else [])]
    return next((SplitAssignment.load(file) for file in candidates if file.is_file()), None)


def combined(assignments: Iterable[SplitAssignment | None]) -> SplitAssignment | None:
    """Of several models that are used together: an image that any of them was trained on is in train; None where no model keeps one.

    The seed is that of the first.
    """
    known = [one for one in assignments if one is not None]
    if not known:
        return None
    found: dict[str, AssignedSplit] = {}
    for name in reversed(ASSIGNED_SPLITS):
        for one in known:
            found |= {short: split for short, split in one.splits.items() if split == name}
    return SplitAssignment(known[0].seed, found)


def _short(hashes: npt.NDArray[np.uint8]) -> list[str]:
    return [row[:_HASH_BYTES].tobytes().hex() for row in hashes]


def keep_assignment(folder: Path, assignment: SplitAssignment) -> None:
    """Keep the splits of a run's images as ``splits.json``.

    Raises:
        BundleError: the run was begun with other images, or other splits, than it shall be resumed with.
    """
    file = folder / SPLITS_FILE
    if not file.exists():
        assignment.save(file)
        return
    begun, now = SplitAssignment.load(file).splits, assignment.splits
    if begun != now:
        moved = sum(begun[short] != now[short] for short in begun.keys() & now.keys())
        raise BundleError(
            f"{folder} was begun with other images: {len(now.keys() - begun.keys())} are new, {len(begun.keys() - now.keys())} missing, "
            f"{moved} in another split",
            "a run goes on with the images that it was begun with",
            "put them back, or start a new run in another --out",
        )
