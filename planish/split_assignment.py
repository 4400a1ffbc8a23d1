"""The split of every image, identified by its file's content. It is stored with a run, a model and a bundle, and reused by later jobs."""

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
_HASH_BYTES = 8  # of a file's SHA-256: with a million images, the probability of any collision is about 1 in 30 million


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SplitsFile:
    """``splits.json``: the splits of the images that a model was made with.

    Each image is identified by the first 16 hexadecimal digits of the SHA-256 of its file.

    Args:
        seed: seed that assigns images that are in no split yet.
        train: training images, including the calibration images.
        validation: validation images.
        test: test images.
    """

    seed: int
    train: list[str]
    validation: list[str]
    test: list[str]
    schema_version: Literal[1] = 1


@plain_dataclass(frozen=True)
class SplitAssignment:
    """The split of every image that a model was trained, selected or evaluated on.

    Images are identified by the SHA-256 of their files, so that renaming or moving them has no effect and no file name leaves the machine.
    Calibration images are part of train.

    Args:
        seed: seed that assigns images that are not in it.
        splits: split by the first 16 hexadecimal digits of the hash.
    """

    seed: int
    splits: Mapping[str, AssignedSplit]

    @classmethod
    def of(cls, hashes: npt.NDArray[np.uint8], splits: Sequence[AssignedSplit], seed: int) -> SplitAssignment:
        """Build the assignment from hashes ``(N, 32)``. A file that is in several splits goes to train first, then to validation."""
        found: dict[str, AssignedSplit] = {}
        for name in reversed(ASSIGNED_SPLITS):
            found |= {short: name for short, split in zip(_short(hashes), splits, strict=True) if split == name}
        return cls(seed, found)

    def find(self, hashes: npt.NDArray[np.uint8]) -> list[AssignedSplit | None]:
        """Return the split of each image, given hashes ``(N, 32)``; None for images that are not in the assignment."""
        return [self.splits.get(short) for short in _short(hashes)]

    def updated(self, later: SplitAssignment) -> SplitAssignment:
        """Return this assignment extended by the images of ``later``; images in both keep the split of this one."""
        return SplitAssignment(self.seed, {**later.splits, **self.splits})

    def counts(self) -> dict[AssignedSplit, int]:
        """Return the number of images in each split."""
        counted = Counter(self.splits.values())
        return {name: counted[name] for name in ASSIGNED_SPLITS}

    def save(self, file: Path) -> None:
        """Write JSON atomically: to a temporary file, which is then renamed."""
        train, validation, test = (sorted(short for short, split in self.splits.items() if split == name) for name in ASSIGNED_SPLITS)
        content = TypeAdapter(SplitsFile).dump_json(SplitsFile(self.seed, train, validation, test))
        partial = file.with_name(file.name + ".partial")
        partial.write_bytes(content)
        partial.replace(file)

    @classmethod
    def load(cls, file: Path) -> SplitAssignment:
        """Read a file written by ``save``.

        Raises:
            BundleError: the file is damaged, or of another version.
        """
        saved = read_versioned(file, SplitsFile, "it holds the splits of the images", "make the model again")
        return cls(saved.seed, {short: name for name in reversed(ASSIGNED_SPLITS) for short in getattr(saved, name)})


def assignment_beside(model: Path) -> SplitAssignment | None:
    """Load the assignment stored with a model: in its folder, or next to its file; None if there is none.

    For networks in the ``work`` folder of a run it is the run's.

    Raises:
        BundleError: the file exists but is damaged.
    """
    if not model.exists():
        return None
    folder = model.absolute() if model.is_dir() else model.absolute().parent
    candidates = [folder / SPLITS_FILE, *([folder.parent.parent / SPLITS_FILE] if folder.parent.name == "work" else [])]
    return next((SplitAssignment.load(file) for file in candidates if file.is_file()), None)


def combined(assignments: Iterable[SplitAssignment | None]) -> SplitAssignment | None:
    """Merge the assignments of several models that are used together; None if no model has one.

    An image that any of them was trained on is in train; then validation takes precedence over test. The seed is the first one's.
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
    """Save the splits of a run's images as ``splits.json``, or check that they match the saved ones.

    Raises:
        BundleError: the run was started with other images or other splits.
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
