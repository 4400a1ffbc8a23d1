"""What glibc's allocator does with freed memory; without effect where the C library is another one."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of malloc.h
_LARGE_BYTES = 1_000_000
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Make this process keep freed blocks for the next allocation instead of returning them to the system.

    Feature maps are allocated and freed in every step; for those above 32 MB, glibc otherwise gets new pages from the system each time, and
    touching them costs more than many a layer does.
    """
    _call("mallopt", _M_MMAP_MAX, 0)
    _call("mallopt", _M_TRIM_THRESHOLD, _LARGEST_INT)


def return_large_blocks() -> None:
    """Make this process return freed blocks of at least 1 MB to the system.

    Otherwise glibc raises its threshold, so that each thread's heap keeps large freed blocks.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)


def return_freed_memory() -> None:
    """Return the blocks that are free now to the system."""
    _call("malloc_trim", 0)


def _call(function: str, *values: int) -> None:
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # the C library is not glibc
            getattr(ctypes.CDLL(None), function)(*values)
