"""Reading images with numbers: a CSV file with the column ``path``, perhaps ``split``, and a column of numbers for each value."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import SPLIT_WORDS, GivenSplit
from planish.data.sources.source import Labels
from planish.errors import DataError
from planish.printable import printable_names

_RULE = "a CSV file has the columns path, perhaps split, and one of numbers for each value, its unit in brackets: 'width [mm]'"
_STRATA = 5  # kinds of images, by the first value, of which each split gets its share


@dataclass(frozen=True)
class NumberedImage:
    """One row: an image file and its values."""

    key: str
    path: Path
    split: GivenSplit | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class NumberedFiles:
    """Images with numbers; a ``planish.data.sources.source.DataSource``."""

    name: str
    images: list[NumberedImage]
    value_names: tuple[str, ...]
    task: str = "regression"
    how: str = "manifest"
    inventory: Inventory = field(default_factory=Inventory)

    @property
    def classes(self) -> int:
        return 1

    def targets_of(self, listed: Sequence[NumberedImage], skip_bad: bool, class_names: Sequence[str] | None = None) -> Labels:
        """The values, float32 ``(N, K)``, in the order of the model's where there is one.

        Raises:
            DataError: the file lacks a value that the model gives.
        """
        names = self.value_names if class_names is None else tuple(class_names)
        if missing := [name for name in names if name not in self.value_names]:
            raise DataError(f"{self.name!r} has no column {missing[0]!r}", f"the model gives {', '.join(names)}", "add the column")
        columns = [self.value_names.index(name) for name in names]
        targets = np.array([[image.values[i] for i in columns] for image in listed], np.float32).reshape(len(listed), len(names))
        edges = np.quantile(targets[:, 0], np.linspace(0, 1, _STRATA + 1)[1:-1]) if len(listed) else []
        return Labels(names, targets, np.searchsorted(edges, targets[:, 0]).astype(np.int64), [f"part {i + 1}" for i in range(_STRATA)])

    def printable(self) -> NumberedFiles:
        keys = printable_names([image.key for image in self.images])
        return replace(self, images=[replace(image, key=keys.get(image.key, image.key)) for image in self.images])


def read_numbers(path: Path, inventory: Inventory) -> NumberedFiles:
    """Read a CSV file, or that of a folder with one.

    Raises:
        DataError: columns or files are missing, or a value is no number; the line is named.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix.lower() != ".csv":
        raise DataError(f"{str(path)!r} has {len(files)} CSV files" if path.is_dir() else f"{path.name} is no CSV file", _RULE)
    inventory.use(files)
    with files[0].open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        names = tuple(name for name in rows.fieldnames or () if name not in ("path", "split"))
        if "path" not in (rows.fieldnames or ()) or not names:
            raise DataError(f"{files[0].name} has the columns {', '.join(rows.fieldnames or ['none'])}", _RULE)
        images = [_image(files[0], rows.line_num, row, names) for row in rows]
    if not images:
        raise DataError(f"{files[0].name} names no images", _RULE)
    return NumberedFiles(files[0].stem, sorted(images, key=lambda image: image.key), names, inventory=inventory)


def _image(file: Path, line: int, row: dict[str, str], names: Sequence[str]) -> NumberedImage:
    where = f"{file.name}, line {line}"
    try:
        values = tuple(float(row[name]) for name in names)
    except (TypeError, ValueError):
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise DataError(f"{where}: {', '.join(f'{name} is {row[name]!r}' for name in names)}", "values are numbers")
    word, path = (row.get("split") or "").lower(), file.parent / row["path"]
    if word and word not in SPLIT_WORDS:
        raise DataError(f"{where}: the split {word!r}", f"it is one of {', '.join(SPLIT_WORDS)}")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {row['path']!r}", f"paths are relative to {str(file.parent)!r}")
    return NumberedImage(Path(row["path"]).as_posix(), path, SPLIT_WORDS.get(word), values)
