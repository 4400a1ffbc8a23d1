"""The file of keys that a service is started with."""

from __future__ import annotations

import stat
from pathlib import Path

from planish.errors import BundleError
from planish.files.reading import read_text

_MOST_BYTES = 1 << 20


def read_keys(file: Path) -> tuple[str, ...]:
    """The keys in a file, one per line; blank lines and those that begin with ``#`` are passed over.

    Raises:
        BundleError: the file cannot be read, or holds no key: the service would be open to everyone.
    """
    try:
        lines = [line.strip() for line in read_text(file, _MOST_BYTES).splitlines()]
    except (OSError, ValueError) as error:
        raise BundleError(f"the keys in {file} cannot be read: {error}", "it is a text file in UTF-8 with a key per line") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise BundleError(
            f"{file} holds no key",
            "the service would answer everyone",
            f"write one into it: openssl rand -hex 24 > {file}",
        )
    return keys


def others_may_read(file: Path) -> bool:
    """Whether other users of this machine may read the file, by its permissions."""
    return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
