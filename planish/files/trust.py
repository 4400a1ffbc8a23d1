"""The gate before files that can run code when they are opened: PyTorch programs, TensorRT engines, Python files, ...

Such a file is opened where this process wrote it or was given its name by the user, where a signature by a key that the user named covers
it, or where the environment variable ``PLANISH_TRUST`` vouches for it: ``1`` for every file, or SHA-256 hashes separated by commas. What
this process trusts is added to that variable, so that the processes it starts trust the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from planish.errors import TrustError

TRUST = "PLANISH_TRUST"


def trust(file: Path) -> None:
    """Let this process, and those it starts, open files with these bytes."""
    hashes, digest = _vouched(), file_sha256(file)
    if not hashes & {"1", digest}:
        os.environ[TRUST] = ",".join(sorted({*hashes, digest}))


def require_trust(file: Path, why: str) -> None:
    """Refuse a file that nobody vouches for.

    Args:
        file: about to be opened.
        why: what can happen then: ``"opening a PyTorch program can run code"``.

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
