"""Search for listed images that lie elsewhere than their list says: below another folder, with another case, or with a suffix."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from planish.data.sources.listing import image_files
from planish.errors import DataError


def moved_files(list_name: str, root: Path, names: Sequence[str]) -> dict[str, Path] | None:
    """Find the images of a list of which none lies where the list says, as in lists from another machine.

    The last parts of a path must agree, except for case, Unicode form and a missing suffix. Leading folders are ignored only where all
    names share them, so that ``cat/1.png`` is not taken for ``dog/1.png``.

    Args:
        list_name: name of the list, for the error message.
        root: folder that is searched, with its subfolders.
        names: the distinct paths in the list.

    Returns:
        The file of each name; None unless every name has one of its own.

    Raises:
        DataError: a name fits several files.
    """
    wanted = [_folded(name) for name in names]
    if not wanted or not all(wanted):
        return None
    by_name: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for file in image_files(root):
        parts = _folded(file.relative_to(root).as_posix())
        for last in {parts[-1], PurePosixPath(parts[-1]).stem}:
            by_name.setdefault(last, []).append(((*parts[:-1], last), file))
    for dropped in range(_shared_folders(wanted) + 1):
        found = [_matches(by_name, parts[dropped:]) for parts in wanted]
        if not all(found):
            continue
        several = next((i for i, files in enumerate(found) if len(files) > 1), None)
        if several is not None:
            files = ", ".join(sorted(file.relative_to(root).as_posix() for file in found[several])[:5])
            raise DataError(
                f"{list_name} names {names[several]!r}, which does not exist, and several files have that name: {files}",
                "each name is of one file",
                f"write paths relative to {str(root)!r}",
            )
        files_found = {name: files[0] for name, files in zip(names, found, strict=True)}
        return files_found if len(set(files_found.values())) == len(names) else None
    return None


def _folded(name: str) -> tuple[str, ...]:
    """The parts of a path, without differences of case, slashes and Unicode form."""
    return PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()).parts


def _shared_folders(paths: Sequence[tuple[str, ...]]) -> int:
    """The number of leading folders that all paths share."""
    count = 0
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _matches(by_name: dict[str, list[tuple[tuple[str, ...], Path]]], parts: tuple[str, ...]) -> list[Path]:
    """The files whose paths end with these parts."""
    return [file for path, file in by_name.get(parts[-1], ()) if path[-len(parts) :] == parts]
