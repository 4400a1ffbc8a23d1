"""Decompression with a size limit: a small file can expand to a thousand times its size."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.errors import DataError
from planish.files.reading import require_regular, wrap_parse_errors

_HEADER = 4096  # bytes allowed per array besides its values


def read_arrays(file: Path, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of an ``.npz`` file.

    Args:
        file: in the format of ``numpy.savez_compressed``.
        max_bytes: limit for all arrays together.

    Raises:
        DataError: it is damaged, contains Python objects, or its unpacked size exceeds ``max_bytes``.
    """
    with wrap_parse_errors(file, DataError, "it is an .npz file of arrays, no pickle", "copy it again"):
        require_regular(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()  # zipfile reads no more of a member than its file_size
            if (size := sum(member.file_size for member in members)) > max_bytes + _HEADER * len(members):
                raise DataError(f"{file} has {size} bytes when it is unpacked", f"at most {max_bytes} are expected")
            for member in members:  # the header of an array determines how much memory is allocated
                with archive.open(member) as stream:
                    if np.lib.format.read_magic(stream) != (1, 0):
                        raise ValueError(f"{member.filename} is of another version")
                    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
                if kind.itemsize * prod(shape) > member.file_size:
                    raise ValueError(f"{member.filename} has no {shape} values")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def inflate(data: bytes, max_bytes: int) -> bytes:
    """Decompress zlib data.

    Raises:
        ValueError: it is damaged, truncated, or larger than ``max_bytes``.
    """
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof or len(found) > max_bytes:
        raise ValueError(f"it is cut off, or has more than {max_bytes} bytes when it is unpacked")
    return found
