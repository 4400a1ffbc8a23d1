"""Parquet files as the library ``datasets`` and the Hub write them: a column with image files, and one with labels or boxes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planish.data.packed.sample import Objects, PackedImage, split_of, suffix_of
from planish.errors import DataError

_ROWS = 64  # read at a time
_IMAGES = ("image", "img", "picture", "photo", "jpg", "png")
_LABELS = ("label", "labels", "class", "target", "category", "cls", "class_name", "label_name")
_OBJECTS = "objects"  # column with the boxes of an image
_CATEGORIES = ("category", "category_id", "label", "labels", "class", "categories")
_HIDDEN = -1  # label of images whose labels are not published


def parquet_images(file: Path, column: str = "") -> Iterator[PackedImage]:
    """Yield the images of a Parquet file.

    Args:
        file: the file.
        column: the column with the labels; empty if there is only one.

    Raises:
        DataError: pyarrow is not installed, there is no column with images, several could be the label, or images are not in the file.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError("the library pyarrow is not installed", "Parquet files need it", "run: pip install 'planish[parquet]'") from error
    table = pq.ParquetFile(file)
    features = _features(table.schema_arrow)
    schema = table.schema_arrow
    image = _image_column(file, schema, features)
    boxes = not column and _OBJECTS in schema.names
    label = _OBJECTS if boxes else _label_column(file, schema, features, column)
    names = _class_names(features.get(label))
    number = 0
    for batch in table.iter_batches(_ROWS, columns=[image, *([label] if label else [])]):
        labels = batch.column(label).to_pylist() if label else [None] * len(batch)
        for cell, value in zip(batch.column(image).to_pylist(), labels, strict=True):
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if not content:
                raise DataError(f"{file.name}, row {number} has no image", "image files are stored in the column itself", "embed them")
            name, split = f"{file.stem}-{number:07d}{suffix_of(content)}", split_of(file)
            if boxes:
                yield PackedImage(name, content, None, split, _objects(file, value, names))
            else:
                yield PackedImage(name, content, _name(file, value, names), split)
            number += 1


def _objects(file: Path, value: Any, names: list[str] | None) -> Objects:
    """The objects of an image, from a mapping of lists or a list of mappings."""
    rows = value or []
    if isinstance(rows, dict):
        key = next((name for name in _CATEGORIES if name in rows), None)
        if key is None or rows.get("bbox") is None:
            raise DataError(f"{file.name} has objects with {', '.join(rows)}", f"they have bbox and one of {', '.join(_CATEGORIES)}")
        rows = [{"bbox": box, key: kind} for box, kind in zip(rows["bbox"], rows[key], strict=True)]
    found = []
    for row in rows:
        key = next((name for name in _CATEGORIES if name in row), None)
        kind = None if key is None else _name(file, row[key], names)
        if kind is None or len(row.get("bbox") or ()) != 4:
            raise DataError(
                f"{file.name} has an object {str(row)[:80]}", "an object has a class and a bbox: x, y, width and height in pixels"
            )
        found.append((kind, tuple(map(float, row["bbox"]))))
    return tuple(found)


def _class_names(kind: Any) -> list[str] | None:
    """The class names in the type of a column, or of what is inside it."""
    if not isinstance(kind, dict):
        return None
    if kind.get("_type") == "ClassLabel":
        return list(kind.get("names", ()))
    return next((names for inner in kind.values() if (names := _class_names(inner)) is not None), None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The types of columns that ``datasets`` records beside Parquet's own."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, dict)} if isinstance(found, dict) else {}


def _image_column(file: Path, schema: Any, features: dict[str, dict[str, Any]]) -> str:
    import pyarrow as pa

    found = [name for name, kind in features.items() if kind.get("_type") == "Image"]
    kinds = {field.name: field.type for field in schema}
    found = found or [name for name, kind in kinds.items() if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0]
    binary = {name for name, kind in kinds.items() if pa.types.is_binary(kind) or pa.types.is_large_binary(kind)}
    found = found or [name for name in _IMAGES if name in binary]
    if len(found) != 1:
        what = f"columns with images: {', '.join(found)}" if found else f"no column with images, only {', '.join(schema.names)}"
        raise DataError(f"{file.name} has {what}", "one column holds image files, as bytes or as a struct with bytes")
    return found[0]


def _label_column(file: Path, schema: Any, features: dict[str, dict[str, Any]], column: str) -> str:
    if column:
        if column not in schema.names:
            raise DataError(f"{file.name} has no column {column!r}", f"it has {', '.join(schema.names)}")
        return column
    found = [name for name, kind in features.items() if kind.get("_type") == "ClassLabel"] or [n for n in schema.names if n in _LABELS]
    usual = [name for name in found if name in ("label", "labels")]
    if len(found) > 1 and len(usual) != 1:
        raise DataError(f"{file.name} has the columns {', '.join(found)}, each of which could be the label", "an image has one label",
                        f"name it: {file.name}#{found[0]}")  # fmt: skip
    return next(iter(usual or found), "")


def _name(file: Path, value: Any, names: list[str] | None) -> str | None:
    if value is None or value == _HIDDEN or value == "":
        return None
    if isinstance(value, list | dict | float | bytes):
        raise DataError(f"{file.name} has a label of the type {type(value).__name__}", "labels are text or whole numbers")
    if names and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(f"{file.name} has the label {value}", f"there are {len(names)} class names")
        return names[value]
    return str(value)
