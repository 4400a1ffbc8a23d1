"""The packed file: any model file with its tensors compressed as far as their values allow; unpacking restores the same bytes.

A tensor is stored in the smallest of these forms, each followed by the same Huffman coder:

- values as indices into a codebook of at most 256 entries, one for the tensor, or one for each of its rows or columns (whichever axis holds
  the output channels);
- values unchanged, byte by byte: the bytes with sign and exponent compress well, those of the mantissa are stored as they are; or
- for tensors with zeros, the gaps between the others (Han et al. 2016, arXiv:1510.00149), and the others in one of the forms above.

Layout: ``_MAGIC``; uint32 length of the description; the description, JSON compressed with zlib; the bytes between the tensors, compressed
with zlib; the parts of the tensors in the order of the description.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.errors import ExportError
from planish.export.runtimes import huffman
from planish.files.archives import inflate
from planish.files.reading import DAMAGED, describe
from planish.files.workspace import fresh_folder

_MAGIC = b"planish packed 1\n"
_SAMPLE = 4096  # values that decide whether a codebook is tried
_ESCAPE = 255  # a gap of this length without a value at its end
_SMALL, _MOST_TIMES = 64_000_000, 200  # bytes that any packed file may unpack to, plus this many times its own size

Array = npt.NDArray[Any]  # of unsigned integers: values are handled as bit patterns


@dataclass(frozen=True)
class Tensor:
    """The position of a tensor in a file.

    Args:
        offset: of its first byte.
        item_bytes: size of one value: 1, 2, 4 or 8.
        shape: rows are along the first axis, columns along the last; each may have its own codebook.
    """

    offset: int
    item_bytes: int
    shape: tuple[int, ...]


def pack(data: bytes, tensors: Sequence[Tensor]) -> bytes:
    """Pack a file.

    Args:
        data: content of the file.
        tensors: in the order of their offsets, without overlap.
    """
    described, coded, between, position = [], [], [], 0
    for tensor in tensors:
        between.append(data[position : tensor.offset])
        values = np.frombuffer(data, f"<u{tensor.item_bytes}", prod(tensor.shape), tensor.offset)
        sparse, rows, parts = _smallest(values, tensor)
        described.append([tensor.offset - position, tensor.item_bytes, list(tensor.shape), sparse, rows, [[h, len(p)] for h, p in parts]])
        coded += [part for _, part in parts]
        position = tensor.offset + values.nbytes
    between.append(data[position:])
    rest = zlib.compress(b"".join(between), 9)
    description = {"sha256": hashlib.sha256(data).hexdigest(), "rest": len(rest), "tensors": described}
    header = zlib.compress(json.dumps(description, separators=(",", ":")).encode(), 9)
    return b"".join((_MAGIC, len(header).to_bytes(4, "little"), header, rest, *coded))


def unpack(packed: bytes) -> bytes:
    """Restore the file that was packed, byte for byte. The unpacked size is checked before memory is allocated.

    Raises:
        ExportError: it is not a packed file, is damaged, or would unpack to far more than its own size.
    """
    try:
        if not packed.startswith(_MAGIC):
            raise ValueError("it does not begin like one")
        start = len(_MAGIC) + 4
        position = start + int(np.frombuffer(packed, "<u4", 1, len(_MAGIC))[0])
        most = _SMALL + _MOST_TIMES * len(packed)
        description = json.loads(inflate(packed[start:position], most))
        if (size := sum(skip + _bytes_of(item_bytes, shape) for skip, item_bytes, shape, *_ in description["tensors"])) > most:
            raise ValueError(f"it would unpack to {size} bytes, and {most} are the most for its size")
        rest = inflate(packed[position : position + description["rest"]], most)
        position += description["rest"]
        parts: list[tuple[bool, bytes]] = []
        for *_, lengths in description["tensors"]:
            for is_coded, length in lengths:
                parts.append((is_coded, packed[position : position + length]))
                position += length
        symbols = iter(huffman.decode([part for is_coded, part in parts if is_coded], most))
        planes = iter([next(symbols) if is_coded else np.frombuffer(part, np.uint8) for is_coded, part in parts])
        pieces, position = [], 0
        for skip, item_bytes, shape, sparse, rows, lengths in description["tensors"]:
            pieces.append(rest[position : position + skip])
            position += skip
            mine = [next(planes) for _ in lengths]
            pieces.append(_values(mine, item_bytes, shape, sparse, rows).tobytes())
        data = b"".join((*pieces, rest[position:]))
        if hashlib.sha256(data).hexdigest() != description["sha256"]:
            raise ValueError("what it holds is not what was packed")
    except (*DAMAGED, StopIteration) as error:
        raise ExportError(
            f"this is not a whole packed file: {describe(error)}", "its bytes must be as they were written", "copy it again"
        ) from error
    return data


def unpacked(file: Path) -> bytes | str:
    """What a runtime opens: the unpacked bytes of a packed file, or the path of any other file."""
    with file.open("rb") as stream:
        is_packed = stream.read(len(_MAGIC)) == _MAGIC
    return unpack(file.read_bytes()) if is_packed else str(file)


def unpacked_file(file: Path) -> Path:
    """The file that is in a packed file, written to a new folder; any other file itself."""
    content = unpacked(file)
    if isinstance(content, str):
        return file
    whole = fresh_folder("unpacked-") / file.name.removesuffix(".packed")
    whole.write_bytes(content)
    return whole


def _bytes_of(item_bytes: int, shape: Sequence[int]) -> int:
    size = item_bytes * prod(shape)
    if item_bytes not in (1, 2, 4, 8) or any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError(f"a tensor of shape {shape} and {item_bytes} bytes a value")
    return size


# One tensor


def _smallest(values: Array, tensor: Tensor) -> tuple[bool, int, list[tuple[bool, bytes]]]:
    """The smallest form of a tensor: whether zeros are left out; the codebooks (see ``_owner``; 0 for none); and the parts, each a pair of
    whether it is Huffman-coded and its bytes."""
    codings: list[tuple[bool, int, list[tuple[bool, bytes]]]] = []
    books = {1, *(tensor.shape[:1]), *(-size for size in tensor.shape[-1:])} if tensor.item_bytes in (2, 4) and len(values) else set()
    places = np.flatnonzero(values)
    kept: list[tuple[bool, Array, Array, list[tuple[bool, bytes]]]] = [(False, values, np.arange(len(values)), [])]
    if len(places) < 0.9 * len(values):
        kept.append((True, values[places], places, [_part(_gaps(places))]))
    for sparse, some, where, before in kept:
        codings.append((sparse, 0, before + _planes(some)))
        tried = [(rows, _codebook(some, _owner(where, tensor.shape, rows), abs(rows))) for rows in sorted(books)]
        codings += [(sparse, rows, before + book) for rows, book in tried if book is not None]
    return min(codings, key=lambda coding: sum(len(part) for _, part in coding[2]))


def _values(planes: list[huffman.Bytes], item_bytes: int, shape: Sequence[int], sparse: bool, rows: int) -> Array:
    """Restore a tensor from its parts, as a flat array."""
    places = _places(planes.pop(0)) if sparse else np.arange(prod(shape))
    if rows == 0:
        some = _joined(planes, item_bytes)
    else:
        sizes = _joined(planes[:2], 2).astype(np.int64)
        first = (np.cumsum(sizes) - sizes)[_owner(places, shape, rows)]
        some = _joined(planes[2 : 2 + item_bytes], item_bytes)[first + planes[2 + item_bytes]]
    if not sparse:
        return some
    values = np.zeros(prod(shape), some.dtype)
    values[places] = some
    return values


def _owner(places: Array, shape: Sequence[int], rows: int) -> Array:
    """The index of the codebook of each position: a single one if ``rows`` is 1, one per row if above 1, one per column if negative."""
    if rows == 1:
        return np.zeros_like(places)
    return places // prod(shape[1:]) if rows > 1 else places % shape[-1]


def _codebook(values: Array, owner: Array, rows: int) -> list[tuple[bool, bytes]] | None:
    """The parts with the sizes of the codebooks, their entries and the indices; None if codebooks would not save space."""
    item_bits = 8 * values.itemsize
    keys = owner.astype(np.uint64) << np.uint64(item_bits) | values
    begin = keys[owner <= rows * _SAMPLE // (len(keys) + 1)][:_SAMPLE]
    if len(np.unique(begin)) > len(begin) // 2:  # few equal values in the first codebooks: do not sort the rest
        return None
    entries, index = np.unique(keys, return_inverse=True)
    sizes = np.bincount((entries >> np.uint64(item_bits)).astype(np.int64), minlength=rows)
    if sizes.max(initial=0) > 256 or len(entries) > len(values) // 2:
        return None
    index -= (np.cumsum(sizes) - sizes)[owner]
    return [*_planes(sizes.astype("<u2")), *_planes(entries.astype(values.dtype)), _part(index.astype(np.uint8))]


def _planes(values: Array) -> list[tuple[bool, bytes]]:
    """The parts with the first bytes of all values, the second bytes, and so on."""
    return [_part(np.ascontiguousarray(plane)) for plane in values.view(np.uint8).reshape(len(values), values.itemsize).T]


def _joined(planes: list[huffman.Bytes], item_bytes: int) -> Array:
    return np.stack(planes, axis=1).reshape(-1).view(f"<u{item_bytes}")


def _part(symbols: huffman.Bytes) -> tuple[bool, bytes]:
    counts = np.bincount(symbols, minlength=256)
    gains = int(counts @ huffman.code_lengths(counts)) < 8 * len(symbols)
    coded = huffman.encode(symbols) if gains else b""
    return (True, coded) if gains and len(coded) < len(symbols) else (False, symbols.tobytes())


def _gaps(places: Array) -> huffman.Bytes:
    """The number of zeros before each position; 255 and more are written with escapes."""
    gaps = np.diff(places, prepend=-1) - 1
    escapes, rests = np.divmod(gaps, _ESCAPE)
    symbols = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = rests
    return symbols


def _places(gaps: huffman.Bytes) -> Array:
    ends = gaps < _ESCAPE
    return (np.cumsum(gaps.astype(np.int64) + ends) - 1)[ends]
