"""Canonical Huffman coding of bytes, with a NumPy decoder that is fast enough for the weights of a whole network.

A stream is divided into blocks whose lengths in bits are stored, so that all blocks of all streams are decoded in parallel: the first
symbol of each, then the second, and so on. This costs 16 bits per 1024 symbols and turns a loop over millions of symbols into one over
1024.

Reference: Huffman 1952, A Method for the Construction of Minimum-Redundancy Codes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_LONGEST = 15  # bits; a code and the seven bits before it fit into three bytes, and 1024 codes into a 16-bit length
_BLOCK = 1024  # symbols


def code_lengths(counts: Ints) -> Ints:
    """The length of each symbol's code in bits, at most 15; 0 for symbols that do not occur, or if there is only one. If a code would be
    longer, the counts are flattened until it fits.

    Args:
        counts: number of occurrences of each symbol.
    """
    present = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.int64)
    weights = counts[present]
    while len(present) > 1:
        heap = [(int(weight), number, [number]) for number, weight in enumerate(weights)]
        heapq.heapify(heap)
        depth = np.zeros(len(present), np.int64)
        for number in range(len(present), 2 * len(present) - 1):
            (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            depth[left + right] += 1
            heapq.heappush(heap, (a + b, number, left + right))
        if depth.max() <= _LONGEST:
            lengths[present] = depth
            break
        weights = weights // 2 + 1
    return lengths


def canonical_codes(lengths: Ints) -> Ints:
    """The canonical codes for these lengths: shorter codes first, equal lengths in the order of the symbols."""
    codes = np.zeros(len(lengths), np.int64)
    code = before = 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        if lengths[symbol]:
            code <<= int(lengths[symbol]) - before
            codes[symbol], before = code, int(lengths[symbol])
            code += 1
    return codes


def encode(symbols: Bytes) -> bytes:
    """Encode bytes as a stream that ``decode`` reads.

    Layout, little-endian: uint32 number of symbols; uint16 number of distinct symbols; the distinct symbols, uint8 each; their code
    lengths, uint8 each; uint16 number of bits of each block of 1024; the codes, most significant bit first, padded to whole bytes.
    """
    present = np.flatnonzero(counts := np.bincount(symbols, minlength=256))
    lengths = code_lengths(counts)
    bits = lengths[symbols]
    ends = np.cumsum(bits)
    stream = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    codes = canonical_codes(lengths)[symbols]
    for place in range(int(lengths.max())):  # the first bit of all codes, then the second, ...
        longer = np.flatnonzero(bits > place)
        stream[ends[longer] - bits[longer] + place] = (codes[longer] >> (bits[longer] - 1 - place)) & 1
    blocks = np.diff(ends[_BLOCK - 1 :: _BLOCK], prepend=0) if len(symbols) >= _BLOCK else np.zeros(0, np.int64)
    if len(symbols) % _BLOCK:
        blocks = np.append(blocks, ends[-1] - blocks.sum())
    return b"".join(
        (
            len(symbols).to_bytes(4, "little"),
            len(present).to_bytes(2, "little"),
            present.astype(np.uint8).tobytes(),
            lengths[present].astype(np.uint8).tobytes(),
            blocks.astype("<u2").tobytes(),
            np.packbits(stream).tobytes(),
        )
    )


@dataclass(frozen=True)
class _Stream:
    count: int
    table: npt.NDArray[np.uint16]  # for each value of the next `width` bits, their first code: length << 8 | symbol
    width: int
    blocks: Ints
    payload: Bytes


def decode(streams: Sequence[bytes], max_symbols: int | None = None) -> list[Bytes]:
    """Decode streams; returns the symbols of each.

    Args:
        streams: results of ``encode``.
        max_symbols: limit for all streams together; None for no limit.

    Raises:
        ValueError: a stream is damaged, or there are more symbols.
    """
    read = [_read(stream) for stream in streams]
    if max_symbols is not None and (count := sum(s.count for s in read)) > max_symbols:
        raise ValueError(f"{count} symbols, of which there may be {max_symbols}")
    payload = np.concatenate([*(s.payload for s in read), np.zeros(_BLOCK * _LONGEST // 8 + 4, np.uint8)]).astype(np.uint32)
    windows = (payload[:-2] << 16) | (payload[1:-1] << 8) | payload[2:]  # the 24 bits that begin at each byte
    tables = np.concatenate([s.table for s in read]) if read else np.zeros(0, np.uint16)
    starts = np.cumsum([0, *(len(s.payload) for s in read)]) * 8
    positions = np.concatenate([starts[i] + np.cumsum(s.blocks) - s.blocks for i, s in enumerate(read)] or [np.zeros(0, np.int64)])
    owner = np.repeat(np.arange(len(read)), [len(s.blocks) for s in read])
    width = np.array([s.width for s in read], np.int64)[owner]
    base = np.cumsum([0, *(len(s.table) for s in read)])[owner]
    mask, shift = (1 << width) - 1, 24 - width
    longest = min(_BLOCK, max((s.count for s in read), default=0))
    found = np.empty((longest, len(positions)), np.uint8)
    for place in range(longest):  # the last block of a stream is read beyond its end; the excess is cut off below
        window = windows[positions >> 3]
        entry = tables[base + ((window >> (shift - (positions & 7))) & mask)]
        found[place] = entry & 0xFF
        positions += entry >> 8
    result, first = [], 0
    for stream in read:
        last = first + len(stream.blocks)
        result.append(found[:, first:last].T.reshape(-1)[: stream.count])  # only the last block is shorter
        first = last
    return result


def _read(stream: bytes) -> _Stream:
    if len(stream) < 6:
        raise ValueError("a Huffman stream is cut short")
    count = int(np.frombuffer(stream, "<u4", 1)[0])
    different = int(np.frombuffer(stream, "<u2", 1, 4)[0])
    blocks_at = 6 + 2 * different
    number = -(-count // _BLOCK)
    if different > 256 or (count > 0) != (different > 0) or len(stream) < blocks_at + 2 * number:
        raise ValueError("a Huffman stream is cut short")
    present = np.frombuffer(stream, np.uint8, different, 6)
    lengths = np.zeros(256, np.int64)
    lengths[present] = np.frombuffer(stream, np.uint8, different, 6 + different)
    blocks = np.frombuffer(stream, "<u2", number, blocks_at).astype(np.int64)
    payload = np.frombuffer(stream, np.uint8, offset=blocks_at + 2 * number)
    width = int(lengths.max())
    ordered = sorted(present.tolist(), key=lambda symbol: (lengths[symbol], symbol))
    entries = np.array([int(lengths[s]) << 8 | s for s in ordered], np.uint16)
    table = np.repeat(entries, [1 << (width - int(lengths[s])) for s in ordered]) if different else np.zeros(1, np.uint16)
    if width > _LONGEST or len(table) != 1 << width or len(payload) * 8 < blocks.sum():
        raise ValueError("a Huffman stream is damaged")
    return _Stream(count, table, width, blocks, payload)
