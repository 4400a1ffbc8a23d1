"""Signed bundles: an Ed25519 signature of the hashes of all files, which only the owner of the private key can create.

``bundle.json`` and its seal contain hashes that anyone can compute, so they only detect accidental changes. ``bundle.sig`` proves who
made the bundle. Keys are PEM files in the format of OpenSSL::

    openssl genpkey -algorithm ed25519 -out key.pem      # keep it secret
    openssl pkey -in key.pem -pubout -out key.pub        # give it to whoever runs the bundles

Reference: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING

from planish.errors import BundleError, RuntimeMissingError
from planish.export.bundle.folder import SIGNATURE, changed_files, file_hashes, read_bundle
from planish.files.reading import read_bytes
from planish.files.trust import trust
from planish.files.workspace import replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MOST_BYTES = 1 << 20
_MAKE_KEY = "make one: openssl genpkey -algorithm ed25519 -out key.pem"
_MAKE_PUBLIC = "take it from the private key: openssl pkey -in key.pem -pubout -out key.pub"


def sign(folder: Path, key: Path) -> Path:
    """Write ``bundle.sig``, replacing an earlier one.

    Args:
        folder: an unchanged bundle.
        key: the private key, a PEM file without a password.

    Returns:
        The path of the signature.

    Raises:
        BundleError: the bundle was changed since it was made, or the key cannot be used.
        DataError: there is a folder with the name of the signature.
        RuntimeMissingError: the library ``cryptography`` is not installed.
    """
    private = _private_key(key)
    if failures := changed_files(folder, read_bundle(folder)):
        raise BundleError(f"{folder}: {'; '.join(failures[:3])}", "a bundle is signed as it was made", "make the bundle again")
    file = folder / SIGNATURE
    signature = private.sign(_message(folder))
    with replacing(file) as partial:
        partial.write_bytes(base64.b64encode(signature) + b"\n")
    return file


def check_signature(folder: Path, public_key: Path) -> None:
    """Refuse a bundle without a valid signature. The model files of a valid one are then trusted, even if their format can run code.

    Args:
        folder: the bundle.
        public_key: the signer's public key, a PEM file.

    Raises:
        BundleError: there is no signature, it was made with another key, or a file was changed, added or removed afterwards.
        RuntimeMissingError: the library ``cryptography`` is not installed.
    """
    public = _public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    try:
        signature = base64.b64decode(read_bytes(folder / SIGNATURE, _MOST_BYTES).strip(), validate=True)
    except FileNotFoundError:
        raise BundleError(f"{folder} is not signed", f"the owner of {public_key} must have signed it", "planish sign signs") from None
    except (OSError, binascii.Error) as error:
        raise BundleError(f"{folder / SIGNATURE} cannot be read: {error}", "it holds a signature in base64", "sign it again") from error
    try:
        public.verify(signature, _message(folder))
    except InvalidSignature:
        raise BundleError(
            f"{folder} is not as the owner of {public_key} signed it, or somebody else did",
            "no file may be changed, added or taken away after signing",
            "do not trust this bundle",
        ) from None
    for name in read_bundle(folder).files:
        trust(folder / name)


def _message(folder: Path) -> bytes:
    """The signed content: the names and hashes of all files except the signature itself."""
    hashes = file_hashes(folder)
    return json.dumps({"planish bundle": 1, "sha256": hashes}, sort_keys=True).encode("ascii")


def _private_key(file: Path) -> Ed25519PrivateKey:
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_bytes(file, _MOST_BYTES), password=None)
    except Exception as error:  # ValueError, TypeError if there is a password, UnsupportedAlgorithm, OSError
        raise BundleError(f"{file} cannot be read: {error}", "it is a private Ed25519 key, PEM, without a password", _MAKE_KEY) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{file} holds a key of another kind: {type(key).__name__}", "bundles are signed with Ed25519", _MAKE_KEY)
    return key


def _public_key(file: Path) -> Ed25519PublicKey:
    _require_library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_bytes(file, _MOST_BYTES))
    except Exception as error:  # as above
        raise BundleError(f"{file} cannot be read: {error}", "it is a public Ed25519 key, PEM", _MAKE_PUBLIC) from error
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{file} holds a key of another kind: {type(key).__name__}", "bundles are signed with Ed25519", _MAKE_PUBLIC)
    return key


def _require_library() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise RuntimeMissingError(
            "the library cryptography is not installed", "signatures need it", "run: pip install 'planish[sign]'"
        ) from error
