"""WebDataset shards: tar files in which the files of a sample follow each other and share a name (``17.jpg``, ``17.cls``)."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

from planish.data.packed.sample import PackedImage, split_of, suffix_of
from planish.data.sources.listing import EXTENSIONS
from planish.errors import DataError

_TEXT = ("cls", "label", "txt.cls", "cls.txt", "cls.name")  # fields with a class, as text
_NAMES = ("label", "class_name", "class", "cls", "label_name")  # keys of a JSON field
_CLASS_NAMES = "classnames.txt"  # beside the shards: a class name in each line
_LOOKED_AT = 20  # files of a tar


def is_shard(file: Path) -> bool:
    """Whether a tar file is a shard rather than an archive of a folder: its first files belong to samples with labels."""
    if not file.name.lower().endswith(".tar"):
        return False
    try:
        with tarfile.open(file) as archive:
            fields = [_name(entry) for entry in islice(archive, _LOOKED_AT) if entry.isfile()]
            if any(field in _TEXT for _, field in fields):
                return True
        images = {key for key, field in fields if f".{field}" in EXTENSIONS}
        if not any(field == "json" and key in images for key, field in fields):
            return False
        return any(image.label is not None for image in islice(shard_images(file), _LOOKED_AT))
    except (tarfile.TarError, OSError, EOFError):
        return False  # damaged: reading it as an archive tells


def shard_images(file: Path) -> Iterator[PackedImage]:
    """Yield the images of a shard.

    Raises:
        DataError: a sample has several images.
    """
    names = _class_names(file)
    with tarfile.open(file, "r|*") as archive:
        entries = ((*_name(entry), entry) for entry in archive if entry.isfile())
        for key, group in groupby(entries, key=lambda one: one[0]):
            fields: dict[str, bytes] = {}
            for _, field, entry in group:
                content = archive.extractfile(entry)
                fields[field] = content.read() if content is not None else b""
            images = [field for field in fields if f".{field}" in EXTENSIONS]
            if not images:
                continue
            if len(images) > 1:
                raise DataError(f"{file.name}: the sample {key!r} has {len(images)} images: {', '.join(images)}", "a sample has one image")
            content_bytes = fields[images[0]]
            name = f"{file.stem}-{key.replace('/', '-')}{suffix_of(content_bytes)}"
            yield PackedImage(name, content_bytes, _label(fields, names, file, key), split_of(file))


def _name(entry: tarfile.TarInfo) -> tuple[str, str]:
    """The key of a sample and the name of its field: ``a/17.seg.png`` is the field ``seg.png`` of ``a/17``."""
    folder, slash, name = entry.name.removeprefix("./").rpartition("/")
    key, _, field = name.partition(".")
    return folder + slash + key, field.lower()


def _label(fields: Mapping[str, bytes], names: list[str], file: Path, key: str) -> str | None:
    found = next((fields[field].decode("utf-8", "replace").strip() for field in _TEXT if field in fields), None)
    if found is None and "json" in fields:
        try:
            values = json.loads(fields["json"])
        except ValueError as error:
            raise DataError(f"{file.name}: the JSON of the sample {key!r} cannot be read: {error}") from error
        value = next((values[name] for name in _NAMES if name in values), None) if isinstance(values, dict) else None
        found = None if isinstance(value, dict | list | None) else str(value)
    if found is None or found in ("", "-1"):
        return None
    if names and found.isdecimal():
        if int(found) >= len(names):
            raise DataError(f"{file.name}: the sample {key!r} is of class {found}", f"{_CLASS_NAMES} has {len(names)} lines")
        return names[int(found)]
    return found


def _class_names(file: Path) -> list[str]:
    for folder in (file.parent, file.parent.parent):
        if (folder / _CLASS_NAMES).is_file():
            return (folder / _CLASS_NAMES).read_text(encoding="utf-8").split("\n")[:-1] or []
    return []
