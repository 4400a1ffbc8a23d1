"""Signing of bundles."""

from __future__ import annotations

from pathlib import Path


def sign(bundle: str | Path, *, key: str | Path) -> Path:
    """Sign a bundle, so that `verify` and `serve` can check with --public-key who made it.

    Make the keys with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub

    Args:
        bundle: Folder of a bundle or a run.
        key: Private Ed25519 key, a PEM file; keep it readable only by yourself.

    Returns:
        Path of the signature file.

    Raises:
        BundleError: there is no bundle, or the key cannot be used.

    Example:
        $ planish sign runs/demo --key key.pem
    """
    from planish.export.bundle.folder import bundle_folder
    from planish.export.bundle.signature import sign as write

    return write(bundle_folder(Path(bundle)), Path(key))
