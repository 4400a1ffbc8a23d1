"""Objects as bytes for another process: classes of users' files by value, memory-mapped arrays as the names of their files."""

from __future__ import annotations

import io
from mmap import mmap
from typing import Any

import cloudpickle
import numpy as np


class ArrayPickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Sends memory-mapped arrays as the names of their files."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.memmap and isinstance(obj.base, mmap) and obj.mode == "r":
            return self.mapped(obj)
        return super().reducer_override(obj)

    def mapped(self, array: np.memmap[Any, Any]) -> tuple[Any, ...]:
        """Return a function and its arguments that open the array again."""
        return map_file, (str(array.filename), array.dtype.str, array.offset, array.shape)


def map_file(file: str, dtype: str, offset: int, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Open a memory-mapped array for reading."""
    return np.memmap(file, dtype, "r", offset, shape)


def pickled(value: Any) -> bytes:
    """Return an object as bytes, which ``cloudpickle.loads`` reads."""
    buffer = io.BytesIO()
    ArrayPickler(buffer).dump(value)
    return buffer.getvalue()
