"""Detection of files that are mistaken for weights or networks, by their first bytes."""

from __future__ import annotations

from pathlib import Path


def mistaken_file(path: Path) -> tuple[str, str] | None:
    """What a file is that was mistaken for weights or a network, and what to do about it; None if it may be valid.

    Args:
        path: of an existing file.
    """
    with path.open("rb") as file:
        head = file.read(200)
    if not head:
        return "is empty", "download or save it again"
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer of {path.stat().st_size} bytes, not the file", "fetch it: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not the file", "download the file itself"
    return None
