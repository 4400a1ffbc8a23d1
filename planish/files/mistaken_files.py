"""Detection of files that are mistaken for weights or networks, by their first bytes."""

from __future__ import annotations

from pathlib import Path


def mistaken_file(path: Path) -> tuple[str, str] | None:
    """What a file is that was mistaken for weights or a network, and what to do about it; None if it may be valid.

    Args:
        path: of an existing file.
    """
    with path.open("rb") as file:
        head = file.read(300)
    if not head:
        return "is empty", "download or save it again"
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer of {path.stat().st_size} bytes, not the file", "fetch it: git lfs pull"
    if head.startswith(b"\x1f\x8b"):
        return "is compressed with gzip", "decompress it: gunzip"
    if head[257:262] == b"ustar":
        return "is a tar archive", "unpack it, and give the file in it: tar -xf"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file, as Keras writes them", "convert it to a state_dict"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not the file", "download the file itself"
    return None
