"""Data sets of the Hugging Face Hub: ``hf://datasets/OWNER/NAME``."""

from __future__ import annotations

import re
from pathlib import Path

from planish.errors import DataError

_ADDRESS = re.compile(r"hf:/{1,2}datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?(#\w+)?")
_FILES = ["*.parquet", "*.tar", "*.zip", "classnames.txt"]


def is_hub_dataset(source: str) -> bool:
    """Whether a source is an address on the Hub instead of a path."""
    return source.startswith(("hf://", "hf:/datasets"))


def downloaded(source: str) -> Path:
    """Download a data set, or what has changed of it, into the cache of ``huggingface_hub``.

    Args:
        source: ``hf://datasets/OWNER/NAME``, perhaps with ``@REVISION`` and ``#COLUMN``, see ``unpacked``.

    Returns:
        The folder with its Parquet files, shards or archives; with ``#COLUMN`` if that is given.

    Raises:
        DataError: huggingface_hub is not installed, the address is not one, or the data set cannot be had.
    """
    match = _ADDRESS.fullmatch(source)
    if match is None:
        raise DataError(
            f"{source!r} is not the address of a data set", "it is hf://datasets/OWNER/NAME, or hf://datasets/OWNER/NAME@REVISION"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise DataError(
            "the library huggingface_hub is not installed", "hf:// addresses need it", "run: pip install 'planish[hub,parquet]'"
        ) from error
    try:
        folder = Path(snapshot_download(match[1], repo_type="dataset", revision=match[2], allow_patterns=_FILES))
    except Exception as error:  # of the network, of the hub, of the file system
        raise DataError(f"{source} cannot be downloaded: {error}", "the data set exists, and is public or you are logged in") from error
    if not any(folder.rglob("*.parquet")) and not any(folder.rglob("*.tar")):
        archives = sorted(folder.rglob("*.zip"))
        if len(archives) != 1:
            raise DataError(
                f"{source} has no Parquet files and no shards", "those are read, or a single ZIP archive", "download it by hand"
            )
        return archives[0]
    return folder.with_name(folder.name + (match[3] or ""))
