"""Versions of the file formats: the key ``schema_version``, and the refusal of files of another version.

A format is a pydantic dataclass with the field ``schema_version: Literal[1] = 1``. The number increases when a key is added or removed, or
when its meaning changes. ``tools/schemas.py`` generates the JSON Schemas in ``docs/schemas/`` from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from planish.errors import BundleError, PlanishError
from planish.files.reading import read_bytes, wrap_parse_errors

SCHEMA_VERSION = "schema_version"

T = TypeVar("T")


def version_of(kind: type) -> int:
    """Return the version of a format that this version of Planish reads and writes."""
    default: Any = next(one.default for one in fields(kind) if one.name == SCHEMA_VERSION)
    return int(default)


def require_version(content: Any, kind: type, where: str | Path, fix: str, error: type[PlanishError] = BundleError) -> None:
    """Refuse content of another version. Content that is not a mapping passes; its reader refuses it.

    Args:
        content: as read from JSON or YAML.
        kind: the format.
        where: the file, for the message.
        fix: what to do, see ``PlanishError``.
        error: type of the error.

    Raises:
        PlanishError: of type ``error``, if ``schema_version`` is missing or different.
    """
    if not isinstance(content, Mapping):
        return
    found, current = content.get(SCHEMA_VERSION), version_of(kind)
    if type(found) is int and found == current:
        return
    has = f"{SCHEMA_VERSION} {found!r:.20}" if SCHEMA_VERSION in content else f"no {SCHEMA_VERSION}"
    raise error(f"{where} has {has}", f"this version of Planish reads {SCHEMA_VERSION} {current}", fix)


def read_versioned(path: Path, kind: type[T], rule: str, fix: str) -> T:
    """Read a JSON file of the current version.

    Args:
        path: of the file.
        kind: the format.
        rule: what the file should be.
        fix: what to do if it is damaged or of another version.

    Raises:
        BundleError: it is missing, damaged, modified, or of another version.
    """
    with wrap_parse_errors(path, BundleError, rule, fix):
        data = read_bytes(path)
        require_version(from_json(data, allow_inf_nan=False), kind, path, f"{fix}, or use the version of Planish that wrote it")
        try:
            return TypeAdapter(kind).validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise BundleError(f"{path}: {where}: {first['msg']}", rule, fix) from None
