"""Reading a manifest: a CSV or JSON-lines file that names image files, their labels and, if wanted, their splits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from planish.data.listing import SPLIT_WORDS, Listed
from planish.errors import DataError
from planish.progress import note

_COLUMNS = "a manifest has the columns path and label, and perhaps split"


def list_manifest(manifest: Path) -> list[Listed]:
    """Files a manifest names, in the order of their keys. Paths are relative to the manifest, or absolute.

    Raises:
        DataError: columns or files are missing, a label is empty, a split unknown, one path given two labels or splits.
    """
    found: dict[str, Listed] = {}
    missing: list[str] = []
    repeated = 0
    for line, row in _rows(manifest):
        item = _listed(manifest, line, row)
        earlier = found.setdefault(item.key, item)
        if earlier is not item:
            repeated += 1
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
    if repeated:
        note(f"{manifest.name} names {repeated} files twice; each is used once")
    with_split = sum(item.split is not None for item in found.values())
    if 0 < with_split < len(found):
        raise DataError(f"{manifest.name} gives a split for {with_split} of {len(found)} files", "give one for all or for none")
    return sorted(found.values(), key=lambda item: item.key)


def _rows(manifest: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {str(manifest)!r} cannot be read: {error}", "it is a text file in UTF-8") from error
    if manifest.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        try:
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise DataError(f"{manifest.name}, line {reader.line_num} is not CSV: {error}", _COLUMNS) from error
        for line, row in rows:
            yield line, {str(k).strip(): (v or "").strip() for k, v in row.items() if isinstance(v, str | None)}
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"{manifest.name}, line {line} is not JSON: {error.msg}", 'each line is {"path": ..., "label": ...}') from error
        if not isinstance(row, dict):
            raise DataError(f"{manifest.name}, line {line} is not a JSON object", 'each line is {"path": ..., "label": ...}')
        yield line, {k: "" if v is None else str(v).strip() for k, v in row.items()}


def _listed(manifest: Path, line: int, row: dict[str, str]) -> Listed:
    if absent := [c for c in ("path", "label") if c not in row]:
        raise DataError(f"{manifest.name}, line {line} lacks {' and '.join(absent)} (it has {', '.join(row) or 'nothing'})", _COLUMNS)
    for column in ("path", "label"):
        if not row[column]:
            raise DataError(f"{manifest.name}, line {line} has an empty {column}", "each row names a file and its class")
    word = row.get("split", "")
    if word and word.lower() not in SPLIT_WORDS:
        raise DataError(
            f"{manifest.name}, line {line}: split {word!r}", f"a split is one of {', '.join(SPLIT_WORDS)}, or empty in all rows"
        )
    return Listed(Path(row["path"]).as_posix(), manifest.parent / row["path"], row["label"], SPLIT_WORDS.get(word.lower()))
