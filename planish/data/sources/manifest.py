"""Reading of manifests: CSV or JSON Lines files that list image files with their labels and, optionally, splits."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import SPLIT_WORDS, Listed
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
    "label": ("label", "class", "class_name", "category", "target", "labels", "classname", "y", "label_name", "species"),
    "split": ("split", "set", "subset", "partition", "fold"),
}
_BOXES = {"xmin", "x_min", "x1", "bbox", "bbox_x", "left", "x_center"}
_COLUMNS = "a manifest has the columns path and label, and perhaps split"


def list_manifest(manifest: Path, inventory: Inventory | None = None) -> list[Listed]:
    """List the files in a manifest, sorted by key. Paths are relative to the manifest, or absolute.

    Args:
        manifest: the CSV or JSON Lines file.
        inventory: records repeated rows, and which columns were used.

    Raises:
        DataError: columns or files are missing, a label is empty, a split is unknown, or a path has two labels or splits.
    """
    found: dict[str, Listed] = {}
    missing: list[str] = []
    repeated: list[str] = []
    inventory = inventory or Inventory()
    inventory.use([manifest])
    for line, row in _rows(manifest, inventory):
        item = _listed(manifest, line, row)
        earlier = found.setdefault(item.key, item)
        if earlier is not item:
            repeated.append(f"line {line}")
            if (earlier.label, earlier.split) != (item.label, item.split):
                what = f"{item.key!r} as {earlier.label!r} ({earlier.split}) and as {item.label!r} ({item.split})"
                raise DataError(f"{manifest.name}, line {line}: {what}", "a file has one label and one split")
        elif not item.path.is_file():
            missing.append(item.key)
    if missing:
        shown = ", ".join(map(repr, missing[:10]))
        raise DataError(
            f"{manifest.name} names {len(missing)} files that do not exist: {shown}", f"paths are relative to {str(manifest.parent)!r}"
        )
    if not found:
        raise DataError(f"{manifest.name} names no images", _COLUMNS)
    inventory.leave_out("rows", f"{manifest.name} names the file before, with the same label", repeated)
    with_split = sum(item.split is not None for item in found.values())
    if 0 < with_split < len(found):
        raise DataError(f"{manifest.name} gives a split for {with_split} of {len(found)} files", "give one for all or for none")
    return sorted(found.values(), key=lambda item: item.key)


def _rows(manifest: Path, inventory: Inventory) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = read_text(manifest, errors="surrogateescape")  # file names need not be UTF-8
    except (OSError, ValueError) as error:
        raise DataError(f"manifest {str(manifest)!r} cannot be read: {error}", "it is a text file in UTF-8") from error
    if "\0" in text:
        raise DataError(f"manifest {str(manifest)!r} cannot be read: it holds zero bytes", "it is a text file in UTF-8", "save it as UTF-8")
    if manifest.suffix.lower() == ".csv":
        head = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=head.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=delimiter)
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise DataError(f"{manifest.name}, line {reader.line_num} is not CSV: {error}", _COLUMNS) from error
        for line, row in rows:
            if more := row.get(None):
                cells = len(row) - 1 + len(more)
                raise DataError(
                    f"{manifest.name}, line {line} has {cells} cells, and there are {len(row) - 1} columns",
                    "a label with a comma is quoted",
                )
            yield line, _renamed(manifest, {str(k).strip(): (v or "").strip() for k, v in row.items()}, inventory)
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
            value = row[name] if name in row else next((row[key] for key in row if key.lower() in others), None)
            if isinstance(value, list | dict):
                what = f"{manifest.name}, line {line} has {str(value)[:60]} for the {name}"
                raise DataError(what, "each row names a file and its class; images of several classes at once are not read")
        yield line, _renamed(manifest, {k: "" if v is None else str(v).strip() for k, v in row.items()}, inventory)


def _renamed(manifest: Path, row: dict[str, str], inventory: Inventory) -> dict[str, str]:
    """Add the columns path, label and split to a row where these have one of their common alternative names.

    Raises:
        DataError: several columns could be the path, the label or the split; or there are boxes.
    """
    if boxes := [key for key in row if key.lower() in _BOXES]:
        raise DataError(
            f"{manifest.name} has the column {boxes[0]!r}: boxes in a table are not read", _COLUMNS, "convert them to COCO JSON"
        )
    for name, others in _OTHER_NAMES.items():
        found = [] if name in row else [key for key in row if key.lower() in others]
        if len(found) > 1:
            raise DataError(f"{manifest.name} has the columns {' and '.join(map(repr, found))}, each of which could be the {name}",
                            _COLUMNS, f"call the one that is meant {name!r}")  # fmt: skip
        if found:
            inventory.assume(f"the column {found[0]!r} of {manifest.name} is the {name}")
            row[name] = row[found[0]]
    return row


def _listed(manifest: Path, line: int, row: dict[str, str]) -> Listed:
    if absent := [c for c in ("path", "label") if c not in row]:
        raise DataError(f"{manifest.name}, line {line} lacks {' and '.join(absent)} (it has {', '.join(row) or 'nothing'})", _COLUMNS)
    for column in ("path", "label"):
        if not row[column]:
            raise DataError(f"{manifest.name}, line {line} has an empty {column}", "each row names a file and its class")
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
    return Listed(Path(path).as_posix(), manifest.parent / path, row["label"], SPLIT_WORDS.get(word.lower()))
