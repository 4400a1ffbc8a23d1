"""Compressed request bodies: ``Content-Encoding: gzip`` and ``deflate``, decompressed in pieces so that no body can fill the memory.

RFC 9110, 8.4 (content codings) and 15.5.16 (415 with ``Accept-Encoding``).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from planish.errors import DataError
from planish.serving.http.errors import RefusedError

ACCEPTED = ("gzip", "deflate")
_PIECE = 65_536  # bytes decompressed at a time
_NONE = ("", "identity")
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window bits for each format


def decompressor(content_encoding: str) -> Decompressor | None:
    """Return the decompressor for a body; None if it is not compressed.

    Args:
        content_encoding: the request's ``Content-Encoding`` headers, joined by commas.

    Raises:
        RefusedError: 415 for other codings, and for more than one.
    """
    codings = [coding.strip().lower().removeprefix("x-") for coding in content_encoding.split(",")]
    codings = [coding for coding in codings if coding not in _NONE]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in ACCEPTED:
        accepted = ", ".join(ACCEPTED)
        message = f"Content-Encoding {content_encoding[:50]!r} is not supported; a body may have one of {accepted}, or none"
        raise RefusedError(415, message, {"Accept-Encoding": accepted})
    return Decompressor(codings[0])


class Decompressor:
    """Decompresses one body.

    Args:
        coding: one of ``ACCEPTED``. ``deflate`` without the zlib header, which some clients send and RFC 9110 tolerates, is accepted.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream: zlib._Decompress | None = None

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decompressed data of the next bytes of the body, at most ``_PIECE`` bytes at a time.

        Raises:
            DataError: they are not of this coding.
        """
        if not chunk:
            return
        if self._stream is None:
            with_header = chunk[0] & 0x0F == 8  # zlib's compression method; raw deflate hardly ever begins like this
            self._stream = zlib.decompressobj(_GZIP if self._coding == "gzip" else _ZLIB if with_header else _RAW)
        stream, rest, more = self._stream, chunk, True
        while rest or more:
            if stream.eof:
                raise DataError(f"there is data after the end of the {self._coding} stream", "a body is one stream")
            try:
                piece = stream.decompress(rest, _PIECE)
            except zlib.error as error:
                raise DataError(f"the body is not {self._coding}: {error}", "it is as its Content-Encoding says") from error
            rest, more = stream.unconsumed_tail, len(piece) == _PIECE and not stream.eof
            if stream.eof and stream.unused_data:
                rest = stream.unused_data
            if piece:
                yield piece

    def finish(self) -> None:
        """Check at the end of the body that the stream is complete.

        Raises:
            DataError: the stream is truncated.
        """
        if self._stream is not None and not self._stream.eof:
            raise DataError(f"the {self._coding} stream is cut off", "the whole of it is needed")
