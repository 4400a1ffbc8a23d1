"""Trust in files that can run code when they are opened: PyTorch programs, TensorRT engines, Python files, ...

Such a file is opened only if this process wrote it, if the user named it, if it is covered by a signature of a key that the user named, or
if the environment variable ``PLANISH_TRUST`` allows it: ``1`` for every file, or SHA-256 hashes separated by commas. Hashes of the files
that this process trusts are added to that variable, so that its child processes trust the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from planish.errors import TrustError

TRUST = "PLANISH_TRUST"


def trust(file: Path) -> None:
    """Allow this process and its child processes to open files with the content of this one."""
    hashes, digest = _vouched(), file_sha256(file)
    if not hashes & {"1", digest}:
        os.environ[TRUST] = ",".join(sorted({*hashes, digest}))


def require_trust(file: Path, why: str) -> None:
    """Refuse a file that is not trusted.

    Args:
        file: the file to be opened.
        why: the risk of opening it, for the message: ``"opening a PyTorch program can run code"``.

    Raises:
        TrustError: it is not trusted.
    """
    hashes = _vouched()
    if "1" in hashes:
        return
    digest = file_sha256(file)
    if digest not in hashes:
        raise TrustError(
            f"{file} comes from elsewhere, and {why}",
            "only files that you made or vouch for are opened",
            f"set {TRUST}={digest} for this file alone, or {TRUST}=1 for all",
        )


def file_sha256(file: Path) -> str:
    """The SHA-256 hash of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _vouched() -> set[str]:
    return {part.strip().lower() for part in os.environ.get(TRUST, "").split(",")} - {""}
