"""Images without labels: a folder of images with neither class folders nor a manifest nor annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import EXTENSIONS, SPLIT_WORDS, Listed, image_files, subfolders
from planish.data.sources.source import DataSource, LabelledFiles, Labels
from planish.errors import DataError

UNLABELLED = "unlabelled"
"""Prefix of a source whose labels are ignored: ``unlabelled:photos``."""
SYNTHESIZED = "synthesized.txt"
"""File in a folder of images that a network made, see ``planish.commands.synthesize``."""
_FEWEST = 3  # one image for each of train, validation and test
_LABEL_FILES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xml")


@dataclass(frozen=True)
class UnlabelledFiles:
    """Images without labels. Their classes are those of a network, whose answers take the place of labels."""

    name: str
    images: list[Listed]
    inventory: Inventory = field(default_factory=Inventory)
    task: str = "classification"
    how: str = "images without labels"

    @property
    def classes(self) -> int:
        return 1

    def targets_of(self, listed: Sequence[Listed], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """Zeros in place of class indices, and one stratum for all images; there are no class names yet.

        Args:
            listed: some of the images.
            skip_bad: ignored, since there are no annotations to leave out.
            class_names: ignored, since there are no labels to match.

        Raises:
            DataError: there are fewer than three images.
        """
        if len(listed) < _FEWEST:
            raise DataError(
                f"{self.name!r} has {len(listed)} image{'s' * (len(listed) != 1)}",
                f"a network is adapted to, chosen and judged by different images, so at least {_FEWEST} are needed",
                "collect more, or make some with planish synthesize MODEL; without images only speed and size can be measured",
            )
        zeros = np.zeros(len(listed), dtype=np.int64)
        return Labels((), zeros, zeros, ["images"], needed=True)

    def printable(self) -> UnlabelledFiles:
        """A copy with keys that can be printed and stored."""
        return replace(self, images=LabelledFiles(self.name, self.images).printable().images)


def read_unlabelled(name: str, root: Path, inventory: Inventory) -> UnlabelledFiles:
    """Read a folder of images without labels; that a network made them is noted.

    Raises:
        DataError: see ``list_unlabelled``.
    """
    if (root / SYNTHESIZED).is_file():
        inventory.assume(f"the images were synthesized ({SYNTHESIZED}): what is measured on them does not hold for real images")
    return UnlabelledFiles(name, list_unlabelled(root), inventory)


def has_no_labels(root: Path) -> bool:
    """Whether a folder has images, no folders with images in them, and no files beside the images that may hold labels."""
    suffixes = {file.suffix.lower() for file in root.iterdir() if not file.name.startswith(".")}
    return bool(suffixes & EXTENSIONS) and not suffixes & set(_LABEL_FILES) and not any(map(image_files, subfolders(root)))


def list_unlabelled(root: Path) -> list[Listed]:
    """List all image files below a folder, sorted by key. Folders have no meaning, except splits if ``train`` is one of them.

    Raises:
        DataError: there are no images, or it is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{str(root)!r} as images without labels", "those are a folder", "give the folder that they are in")
    files = image_files(root)
    if not files:
        raise DataError(f"{str(root)!r} has no images", f"files ending in {', '.join(sorted(EXTENSIONS)[:6])}, ... are looked for")
    keys = [file.relative_to(root).as_posix() for file in files]
    splits = [SPLIT_WORDS.get(key.partition("/")[0].lower()) for key in keys]
    given = "train" in splits
    listed = [Listed(key, file, "", split if given else None) for key, file, split in zip(keys, files, splits, strict=True)]
    return sorted(listed, key=lambda item: item.key)


def refuse_unlabelled(name: str, content: DataSource) -> None:
    """Refuse images without labels, for jobs that need labels.

    Raises:
        DataError: the images have no labels.
    """
    if isinstance(content, UnlabelledFiles):
        raise DataError(
            f"{name!r} has {len(content.images)} images without labels: no class folders, manifest or annotations",
            "each class has a folder of its own (DATA/cat/1.png), or a manifest names the labels (CSV: path,label)",
            "without labels, planish optimize DATA --model FILE.onnx --max-change 1 keeps the answers of a trained network",
        )
