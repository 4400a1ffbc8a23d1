"""The Huffman coder against its theory and against a decoder that reads bit by bit."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.export.runtimes.huffman import canonical_codes, code_lengths, decode, encode

COUNTS = st.lists(st.integers(0, 2000), min_size=2, max_size=256).map(np.array)


def bit_by_bit(stream: bytes) -> list[int]:
    """An independent decoder: canonical codes as RFC 1951 (3.2.2) derives them, looked up one bit at a time."""
    count, different = int.from_bytes(stream[:4], "little"), int.from_bytes(stream[4:6], "little")
    symbols, lengths = stream[6 : 6 + different], stream[6 + different : 6 + 2 * different]
    if different < 2:
        return list(symbols) * count
    next_code, code = {}, 0
    for bits in range(1, 16):
        code = (code + sum(n == bits - 1 for n in lengths)) << 1 if bits > 1 else 0
        next_code[bits] = code
    table = {}
    for symbol, bits in sorted(zip(symbols, lengths, strict=True)):
        table[bits, next_code[bits]] = symbol
        next_code[bits] += 1
    payload = stream[6 + 2 * different + 2 * -(-count // 1024) :]
    found: list[int] = []
    length = value = 0
    for byte in payload:
        for place in range(7, -1, -1):
            length, value = length + 1, value << 1 | (byte >> place & 1)
            if (length, value) in table and len(found) < count:
                found.append(table[length, value])
                length = value = 0
    return found


@settings(deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=4))
def test_what_was_coded_comes_back(streams: list[bytes]) -> None:
    arrays = [np.frombuffer(s, np.uint8) for s in streams]
    for found, expected in zip(decode([encode(a) for a in arrays]), arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_another_decoder_reads_it(count: int, share: float) -> None:
    symbols = np.random.default_rng(0).geometric(share, count).clip(1, 200).astype(np.uint8)
    assert bit_by_bit(encode(symbols)) == symbols.tolist()


@given(COUNTS)
def test_no_code_is_shorter(counts: Any) -> None:
    """The cost of a Huffman code is the sum of all merged weights (Huffman 1952), and lies within a bit of the entropy (Shannon 1948)."""
    present = counts[counts > 0]
    lengths = code_lengths(counts)
    if len(present) < 2:
        assert not lengths.any()
        return
    heap, cost = present.tolist(), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, merged)
        cost += merged
    assert int(counts @ lengths) == cost or lengths.max() == 15  # its limit
    assert ((lengths > 0) == (counts > 0)).all()
    assert (0.5 ** lengths[counts > 0]).sum() == 1  # Kraft: every window of bits is a code
    shares = present / present.sum()
    entropy = -(shares * np.log2(shares)).sum()
    assert entropy - 1e-9 <= counts @ lengths / counts.sum() < entropy + 1


@given(COUNTS)
def test_no_code_begins_with_another(counts: Any) -> None:
    lengths = code_lengths(counts)
    codes = [format(c, f"0{n}b") for c, n in zip(canonical_codes(lengths), lengths, strict=True) if n]
    ordered = sorted(codes)
    assert not any(b.startswith(a) for a, b in itertools.pairwise(ordered))


def test_codes_stay_short_where_counts_grow_like_fibonacci() -> None:
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() <= 15
    assert (0.5**lengths).sum() == 1
    assert (np.diff(lengths) <= 0).all()
    symbols = np.concatenate([np.repeat(np.arange(24), counts[:24]).astype(np.uint8)])
    np.testing.assert_array_equal(decode([encode(symbols)])[0], symbols)


def test_cut_and_damaged_streams_are_refused() -> None:
    stream = encode(np.arange(3000).astype(np.uint8) % 7)
    for wrong in (b"", stream[:5], stream[:20], stream[:-5], stream[:13] + b"\x01" * 7 + stream[20:]):
        with pytest.raises(ValueError):
            decode([wrong])
