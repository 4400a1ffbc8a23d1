"""Image files as text: base64 in either alphabet, with or without padding and line breaks, and ``data:`` URLs."""

from __future__ import annotations

import binascii
import re

from planish.errors import DataError

_SLICE = 262_144  # characters decoded at a time, a multiple of 4; between slices other requests can take the interpreter lock
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\r\n\v\f"
_BASE64_HEAD = re.compile(rb"[A-Za-z0-9+/_=\s-]+")
_IMAGE_HEAD = re.compile(rb"P[1-6]\s|GIF8")  # image files whose first bytes are valid base64


def image_file(data: bytes) -> bytes:
    """Return the image file in a body or form field: decoded if it is base64 or a ``data:`` URL, otherwise the bytes themselves.

    Raises:
        DataError: it is a ``data:`` URL without valid base64.
    """
    head = data[:64].lstrip()
    if head[:5].lower() == b"data:":
        return decode(data)
    if _BASE64_HEAD.fullmatch(head) and not _IMAGE_HEAD.match(head):
        try:
            return decode(data)
        except DataError:  # other text; decoding the image will fail
            return data
    return data


def decode(text: bytes) -> bytes:
    """Decode base64 or a ``data:`` URL.

    Raises:
        DataError: it is not base64, or it is empty.
    """
    text = text.strip(_WHITESPACE)
    if text[:5].lower() == b"data:":
        head, comma, text = text.partition(b",")
        if not comma or not head.rstrip().lower().endswith(b";base64"):
            raise DataError(f"a data URL that begins with {_quoted(head)}", "it is data:image/...;base64,...")
        for escaped, character in ((b"%2B", b"+"), (b"%2F", b"/"), (b"%3D", b"=")):
            text = text.replace(escaped, character).replace(escaped.lower(), character)
    begin = text[:20]
    text = text.translate(_FROM_URL_SAFE, _WHITESPACE).rstrip(b"=")
    if not text:
        raise DataError("an empty image", "an image file or its base64 is needed")
    try:
        if len(text) % 4 == 1:
            raise binascii.Error("its length is that of no base64")
        text += b"=" * (-len(text) % 4)
        return b"".join(binascii.a2b_base64(text[i : i + _SLICE], strict_mode=True) for i in range(0, len(text), _SLICE))
    except binascii.Error as error:
        raise DataError(
            f"text that begins with {_quoted(begin)} and is not base64: {error}", "an image file or its base64 is needed"
        ) from error


def _quoted(text: bytes) -> str:
    return repr(text[:40].decode("ascii", "replace"))
