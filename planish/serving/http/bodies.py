"""Reads request bodies within a limit on their total memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planish.errors import DataError
from planish.serving.http.content_encoding import decompressor
from planish.serving.http.errors import BusyError, RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

_RETRY_S = 1.0


@dataclass(eq=False)
class _Arriving:
    """A body that is being received."""

    timeout: asyncio.Timeout
    data: bytearray = field(default_factory=bytearray)
    received: int = 0  # bytes as received, before decompression
    dropped: bool = False


class Bodies:
    """Reads request bodies with a limit on their total size.

    If the limit is exceeded, the body that has been arriving for the longest time is dropped, so that slow clients make room for others
    and not the other way round.

    Args:
        max_bytes: maximum size of one body.
        total_bytes: maximum size of all bodies that are arriving or in use.
    """

    def __init__(self, max_bytes: int, total_bytes: int) -> None:
        self._max, self._total, self._held = max_bytes, max(max_bytes, total_bytes), 0
        self._arriving: dict[_Arriving, None] = {}  # oldest first

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the whole body, decompressed if necessary. It counts towards the limit until the end of the block.

        Raises:
            RefusedError: it is too large, before or after decompression, or its compression is not supported.
            BusyError: it was dropped in favour of others.
            DataError: it is empty, or not compressed as its header states.
        """
        decompress = decompressor(",".join(request.headers.getlist("Content-Encoding")))
        length = request.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > self._max):
            raise self._too_large()
        one = _Arriving(asyncio.timeout(None))
        self._arriving[one] = None
        try:
            try:
                async with one.timeout:
                    async for chunk in request.stream():
                        one.received += len(chunk)
                        if one.received > self._max:
                            raise self._too_large()
                        if decompress is None:
                            self._add(one, chunk)
                            continue
                        for piece in decompress.pieces(chunk):
                            self._add(one, piece)
                            await asyncio.sleep(0)  # let other requests run between two pieces
                    if decompress is not None:
                        decompress.finish()
            except TimeoutError:
                if not one.dropped:  # the request's own timeout
                    raise
            finally:
                self._arriving.pop(one, None)
            if one.dropped:
                raise BusyError(_RETRY_S)
            if not one.data:
                raise DataError("the request has no body", "an image file or a request of the protocol is needed")
            size, body, one.data = len(one.data), bytes(one.data), bytearray()
            try:
                yield body
            finally:
                self._held -= size
        finally:
            self._free(one)

    def _add(self, one: _Arriving, chunk: bytes) -> None:
        if one.dropped:
            return
        one.data += chunk
        self._held += len(chunk)
        if len(one.data) > self._max:
            raise self._too_large()
        while self._held > self._total and self._arriving:
            oldest = next(iter(self._arriving))
            del self._arriving[oldest]
            oldest.dropped = True
            self._free(oldest)
            oldest.timeout.reschedule(asyncio.get_running_loop().time())

    def _free(self, one: _Arriving) -> None:
        self._held -= len(one.data)
        one.data = bytearray()

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"a request may have {self._max} bytes, decompressed ones where it is compressed")
