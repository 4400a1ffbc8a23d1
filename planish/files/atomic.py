"""Reading and atomic writing of a run's files: they are written completely, synced to disk, and then renamed into place."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from planish.errors import BundleError, DataError
from planish.files import archives
from planish.files.schema import read_versioned
from planish.files.workspace import replacing
from planish.printable import printable

T = TypeVar("T")
_MOST_BYTES = 1 << 31  # of unpacked arrays: logits of a million images for 500 classes


def job_folder(out: str | Path | None, kind: str, data: str | Path, model: str) -> Path:
    """The folder ``out``, or if it is None one named after the other arguments, such as ``runs/folds-photos-resnet20``."""
    return Path(out) if out is not None else Path("runs") / f"{kind}-{Path(data).stem}-{Path(model).stem}".replace(":", "-")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value), encoding="utf-8")


def write_result(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a pydantic dataclass as JSON; strings that are not UTF-8, such as paths, are written as ``planish.printable`` shows them.

    Args:
        path: of the file.
        value: an instance of the dataclass.
        indent: spaces per level; None for one line.
    """
    with replacing(path) as partial:
        content = _storable(TypeAdapter(type(value)).dump_python(value, mode="json"))
        partial.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def _storable(value: Any) -> Any:
    """A JSON value with strings that are valid UTF-8, and null for numbers that JSON lacks."""
    if isinstance(value, dict):
        return {_storable(key): _storable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_storable(one) for one in value]
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_result(path: Path, kind: type[T]) -> T:
    """Read what ``write_result`` wrote.

    Args:
        path: of the file.
        kind: the dataclass.

    Raises:
        BundleError: it is missing, damaged, modified, or of another version.
    """
    return read_versioned(path, kind, "it must be as the run wrote it", "make it again: the same command with --resume")


def read_arrays(path: Path, names: Sequence[str] = (), max_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """Read what ``write_arrays`` wrote.

    Args:
        path: of the file.
        names: arrays that it must contain.
        max_bytes: limit for all arrays together.

    Raises:
        BundleError: it is missing, damaged, lacks one of ``names``, or its unpacked size exceeds ``max_bytes``.
    """
    try:
        found = archives.read_arrays(path, max_bytes)
    except DataError as error:
        raise BundleError(error.received, error.rule, "make it again: the same command with --resume") from error
    if absent := [name for name in names if name not in found]:
        raise BundleError(f"{path} has no {', '.join(absent)}", f"it holds the arrays {', '.join(names)}, no pickle")
    return found


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays to a compressed ``.npz`` that loads without pickle; at a fast level, as masks of a thousand images are a gigabyte."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
