"""The file with the keys of a service."""

from __future__ import annotations

import stat
from pathlib import Path

from planish.errors import BundleError
from planish.files.reading import read_text

_MOST_BYTES = 1 << 20


def read_keys(file: Path) -> tuple[str, ...]:
    """Return the keys in a file, one per line; blank lines and lines that begin with ``#`` are ignored.

    Raises:
        BundleError: the file cannot be read, or contains no key, in which case the service would be open to everyone.
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
    """Return whether the permissions allow other users of this machine to read the file."""
    return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
