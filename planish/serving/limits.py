"""Limits on requests, and the memory budget for decoding images."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from planish.errors import BundleError, DataError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
BODIES = 4  # request bodies of the largest size that may be in memory at the same time


@dataclass(frozen=True)
class Limits:
    """Limits on what a service accepts.

    Args:
        max_batch: largest batch size of the model.
        max_queue: maximum number of waiting images; further requests are answered 429. It is also the maximum number of images per
            request, unless ``max_batch`` is larger.
        max_bytes: maximum size of a request body; all bodies together may have ``BODIES`` times as many bytes.
        max_pixels: maximum number of pixels of an image file, before it is resized.
        max_decoding_bytes: memory for all images that are decoded at the same time; an image that needs more on its own is refused. The
            default is enough for one RGB JPEG or PNG of ``max_pixels``.
        timeout_s: seconds after which a request is answered 504.
        cors_origins: origins, such as ``https://example.com``, whose scripts may read responses; ``*`` for all. Cookies are never used.
        keys: requests must send one of these keys, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; if it is empty, no key is
            needed.

    Raises:
        BundleError: a key is blank, so that requests without a key would match it, or an origin is not valid.
    """

    max_batch: int = 16
    max_queue: int = 128
    max_bytes: int = 16_000_000
    max_pixels: int = 24_000_000
    max_decoding_bytes: int = 256_000_000
    timeout_s: float = 30.0
    keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(not key.strip() for key in self.keys):
            raise BundleError("a blank key", "a request without a key would have it", "leave it out")
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise BundleError(
                    f"the origin {origin!r}", "it is a scheme, a host and perhaps a port, without a path", "for example https://example.com"
                )


DEFAULT_LIMITS = Limits()


class MemoryBudget:
    """Memory shared by threads. A thread waits until the bytes it needs are free; threads are served in order, so none starves.

    Args:
        total_bytes: bytes that may be in use at the same time.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total, self._used = total_bytes, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reservation(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that reserves bytes; they are released at the end of the block. The function blocks until the bytes are free.

        Raises:
            DataError: raised by the yielded function if more bytes are requested than the budget has in total.
        """
        with ExitStack() as held:

            def reserve(size_bytes: int) -> None:
                if size_bytes > self._total:
                    raise DataError(
                        f"an image that needs {size_bytes / 1e6:.0f} MB to be decoded",
                        f"at most {self._total / 1e6:.0f} MB are used for it",
                        "send a smaller one",
                    )
                self._take(size_bytes)
                held.callback(self._give_back, size_bytes)

            yield reserve

    def _take(self, size_bytes: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._used + size_bytes <= self._total)
            self._waiting.popleft()
            self._used += size_bytes
            self._changed.notify_all()

    def _give_back(self, size_bytes: int) -> None:
        with self._changed:
            self._used -= size_bytes
            self._changed.notify_all()
