"""What a service takes on, and how much memory that may need."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from planish.errors import BundleError, DataError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
BODIES = 4  # request bodies of the largest size that may be in memory at a time


@dataclass(frozen=True)
class Limits:
    """What a service takes on.

    Args:
        max_batch: largest batch size of the model.
        max_queue: images that may wait, and that one request may bring; beyond that requests are answered 429.
        max_bytes: of a request's body; all bodies together may have ``BODIES`` times as many.
        max_pixels: of an image file, before it is shrunk.
        max_decoding_bytes: of memory for all images that are decoded at a time; an image that needs more alone is refused. The default is
            enough for one RGB JPEG or PNG of ``max_pixels``.
        timeout_s: after which a request is answered 504.
        cors_origins: of pages, ``https://example.com``, whose scripts may read the answers; ``*`` for all. Cookies are never used.
        keys: one of which requests must bring as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; none are needed where it is empty.

    Raises:
        BundleError: a key is blank, which every request would bring, or an origin is none.
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
    """Bytes that threads share: who needs some waits until they are free, in the order of asking, so that nobody waits for ever.

    Args:
        total_bytes: that may be in use at a time.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total, self._used = total_bytes, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reservation(self) -> Iterator[Callable[[int], None]]:
        """A function that reserves bytes, to be called in this block; at the block's end they are free again.

        Raises:
            DataError: by the function, where more is asked for than there is.
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
