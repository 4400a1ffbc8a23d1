"""Reading of manifests: CSV, TSV or JSON Lines files that list image files with their labels and, optionally, splits."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import SPLIT_WORDS, Listed
from planish.data.sources.moved_files import moved_files
from planish.errors import DataError
from planish.files.reading import describe, read_text

_OTHER_NAMES = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image",
        "image_path",
        "img",
        "img_path",
        "image_name",
        "image_id",
        "imagepath",
        "imagename",
        "image_file",
        "fname",
    ),
    "label": ("label", "class", "class_name", "category", "target", "labels", "classname", "y", "label_name", "class_label", "species"),
    "split": ("split", "set", "subset", "partition", "fold"),
}
_BOXES = {"xmin", "x_min", "x1", "bbox", "bbox_x", "left", "x_center"}
_NO_VALUE = ("nan", "<na>")  # as pandas writes missing values
_ON, _OFF = ("1", "1.0"), ("0", "0.0")
_WHOLE = re.compile(r"-?\d+(\.0*)?")
_COLUMNS = "a manifest has the columns path and label, and perhaps split"


def list_manifest(manifest: Path, inventory: Inventory | None = None) -> list[Listed]:
    """List the files in a manifest, sorted by key.

    Paths are relative to the manifest, or absolute; if none of the files is there, they are searched, see ``moved_files``.

    Args:
        manifest: the CSV, TSV or JSON Lines file.
        inventory: records repeated rows, and how the rows were understood.

    Raises:
        DataError: columns or files are missing, a label is empty, a split is unknown, or a path has two labels or splits.
    """
    found: dict[str, Listed] = {}
    repeated: list[str] = []
    inventory = inventory or Inventory()
    inventory.use([manifest])
    for line, row in _rows(manifest, inventory):
        item = _listed(manifest, line, row)
        earlier = found.setdefault(os.path.abspath(item.path), item)
        if earlier is not item:
            repeated.append(f"line {line}")
            if (earlier.label, earlier.split) != (item.label, item.split):
                what = f"{item.key!r} as {earlier.label!r} ({earlier.split}) and as {item.label!r} ({item.split})"
                raise DataError(f"{manifest.name}, line {line}: {what}", "a file has one label and one split")
    if not found:
        raise DataError(f"{manifest.name} names no images", _COLUMNS)
    inventory.leave_out("rows", f"{manifest.name} names the file before, with the same label", repeated)
    with_split = sum(item.split is not None for item in found.values())
    if 0 < with_split < len(found):
        raise DataError(f"{manifest.name} gives a split for {with_split} of {len(found)} files", "give one for all or for none")
    listed = _existing(manifest, list(found.values()), inventory)
    return sorted(_plain_labels(manifest, listed, inventory), key=lambda item: item.key)


def _existing(manifest: Path, listed: list[Listed], inventory: Inventory) -> list[Listed]:
    """The same items with the files that exist.

    Raises:
        DataError: files do not exist.
    """
    missing = [item.key for item in listed if not item.path.is_file()]
    if not missing:
        return listed
    if len(missing) == len(listed) and (moved := moved_files(manifest.name, manifest.parent, missing)):
        items = [replace(item, key=moved[item.key].relative_to(manifest.parent).as_posix(), path=moved[item.key]) for item in listed]
        inventory.assume(
            f"{manifest.name} names {missing[0]}, which is taken from here: {items[0].key}; likewise for all {len(items)} files"
        )
        return items
    shown = ", ".join(map(repr, missing[:10]))
    raise DataError(
        f"{manifest.name} names {len(missing)} files that do not exist: {shown}", f"paths are relative to {str(manifest.parent)!r}"
    )


def _plain_labels(manifest: Path, listed: list[Listed], inventory: Inventory) -> list[Listed]:
    """Write whole numbers alike, which pandas turns from 1 to 1.0, and note labels that combine several."""
    labels = dict.fromkeys(item.label for item in listed)
    combined = [
        label for label in labels for parts in [re.split(r"[|;,]", label)] if len(parts) > 1 and any(p.strip() in labels for p in parts)
    ]
    if combined:
        inventory.assume(f"an image has one class, so each combination of labels in {manifest.name} is a class of its own: {combined[0]!r}")
    decimal = next((label for label in labels if "." in label), None)
    if decimal is None or not all(map(_WHOLE.fullmatch, labels)):
        return listed
    inventory.assume(f"labels in {manifest.name} are whole numbers: {decimal} is {decimal.split('.')[0]}")
    return [replace(item, label=item.label.split(".")[0]) for item in listed]


def _rows(manifest: Path, inventory: Inventory) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = read_text(manifest, errors="surrogateescape")  # file names need not be UTF-8
    except (OSError, ValueError) as error:
        raise DataError(f"manifest {str(manifest)!r} cannot be read: {error}", "it is a text file in UTF-8") from error
    if "\0" in text:
        raise DataError(f"manifest {str(manifest)!r} cannot be read: it holds zero bytes", "it is a text file in UTF-8", "save it as UTF-8")
    if manifest.suffix.lower() in (".csv", ".tsv"):
        rows = _with_one_hot_labels(manifest, _table(manifest, text), inventory)
        yield from ((line, _renamed(manifest, row, inventory)) for line, row in rows)
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            what = f"{manifest.name}, line {line} is not JSON: {describe(error)}"
            raise DataError(what, 'each line is {"path": ..., "label": ...}') from error
        if not isinstance(row, dict):
            raise DataError(f"{manifest.name}, line {line} is not a JSON object", 'each line is {"path": ..., "label": ...}')
        for name, others in _OTHER_NAMES.items():
            value = row[name] if name in row else next((row[key] for key in row if _folded(key) in others), None)
            if isinstance(value, list | dict):
                what = f"{manifest.name}, line {line} has {str(value)[:60]} for the {name}"
                raise DataError(what, "each row names a file and its class; images of several classes at once are not read")
        yield line, _renamed(manifest, {k: "" if v is None else str(v).strip() for k, v in row.items()}, inventory)


def _table(manifest: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, with their lines; rows of empty cells are skipped.

    Raises:
        DataError: it is not CSV, two columns have one name, or a row has too many cells.
    """
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{manifest.name}, line {reader.line_num} is not CSV: {error}", _COLUMNS) from error
    read = {name for names in _OTHER_NAMES.values() for name in names}
    names = [name.strip() for name in reader.fieldnames or ()]
    if twice := [name for name in names if _folded(name) in read and names.count(name) > 1]:
        raise DataError(f"{manifest.name} has several columns {twice[0]!r}", _COLUMNS, "each column has a name of its own")
    found = []
    for line, row in rows:
        if more := row.get(None):
            cells = len(row) - 1 + len(more)
            raise DataError(
                f"{manifest.name}, line {line} has {cells} cells, and there are {len(row) - 1} columns",
                "a label with a comma is quoted",
            )
        plain = {str(k).strip(): (v or "").strip() for k, v in row.items()}
        if any(plain.values()):
            found.append((line, plain))
    return found


def _with_one_hot_labels(manifest: Path, rows: list[tuple[int, dict[str, str]]], inventory: Inventory) -> list[tuple[int, dict[str, str]]]:
    """Add a label to the rows of a table that has a column of 0 and 1 for each class instead.

    Raises:
        DataError: a row has several classes, or none.
    """
    columns = list(rows[0][1]) if rows else []
    others = (*_OTHER_NAMES["path"], *_OTHER_NAMES["split"], "", "unnamed:_0")
    classes = [name for name in columns if _folded(name) not in others]
    has_label = any(_folded(name) in _OTHER_NAMES["label"] for name in classes)
    if has_label or len(classes) < 2 or any(row[name] not in _ON + _OFF for _, row in rows for name in classes):
        return rows
    for line, row in rows:
        chosen = [name for name in classes if row[name] in _ON]
        if len(chosen) != 1:
            raise DataError(
                f"{manifest.name}, line {line} has {len(chosen)} classes: {', '.join(chosen) or 'all columns are 0'}",
                "an image has one class; images of several classes at once are not read",
                "give a column label, with a class for each combination",
            )
        row["label"] = chosen[0]
    inventory.assume(f"the columns {', '.join(classes[:10])} of {manifest.name} are classes, of which the one that is 1 is the label")
    return rows


def _folded(name: str) -> str:
    """The name of a column in lower case with underscores."""
    return name.lower().replace(" ", "_").replace("-", "_")


def _renamed(manifest: Path, row: dict[str, str], inventory: Inventory) -> dict[str, str]:
    """Add the columns path, label and split to a row where these have one of their common alternative names.

    Raises:
        DataError: several columns could be the path, the label or the split; or there are boxes.
    """
    if boxes := [key for key in row if _folded(key) in _BOXES]:
        raise DataError(
            f"{manifest.name} has the column {boxes[0]!r}: boxes in a table are not read", _COLUMNS, "convert them to COCO JSON"
        )
    for name, others in _OTHER_NAMES.items():
        found = [key for key in row if key != name and _folded(key) in others]
        if name in row:
            if found:
                inventory.assume(f"the column {name!r} of {manifest.name} is the {name}, not {' or '.join(map(repr, found))}")
            continue
        if len(found) > 1:
            raise DataError(f"{manifest.name} has the columns {' and '.join(map(repr, found))}, each of which could be the {name}",
                            _COLUMNS, f"call the one that is meant {name!r}")  # fmt: skip
        if found:
            inventory.assume(f"the column {found[0]!r} of {manifest.name} is the {name}")
            row[name] = row[found[0]]
    return row


def _listed(manifest: Path, line: int, row: dict[str, str]) -> Listed:
    if absent := [c for c in ("path", "label") if c not in row]:
        raise DataError(
            f"{manifest.name}, line {line} lacks {' and '.join(absent)} (it has {', '.join(row) or 'nothing'})",
            _COLUMNS,
            "rename columns, or add a first line with their names",
        )
    for column in ("path", "label"):
        if not row[column]:
            raise DataError(f"{manifest.name}, line {line} has an empty {column}", "each row names a file and its class")
    if row["label"].lower() in _NO_VALUE:
        raise DataError(
            f"{manifest.name}, line {line} has the label {row['label']}, a missing value", "each row names a file and its class"
        )
    if any("\ud800" <= character <= "\udfff" for character in row["label"]):
        raise DataError(f"{manifest.name}, line {line} has a label that is not UTF-8: {row['label']}", "the file is in UTF-8", "save it so")
    word = row.get("split", "")
    if word and word.lower() not in SPLIT_WORDS:
        raise DataError(
            f"{manifest.name}, line {line}: split {word!r}",
            "a split is one of train, training, val, valid, validation, test, testing, or empty in all rows",
        )
    slashes = row["path"].replace("\\", "/")
    spellings = (
        row["path"],
        slashes,
        *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")),
    )  # accents in the Unicode form of other systems
    path = next((spelling for spelling in spellings if (manifest.parent / spelling).exists()), slashes)
    return Listed(Path(path).as_posix(), manifest.parent / path, unicodedata.normalize("NFC", row["label"]), SPLIT_WORDS.get(word.lower()))
