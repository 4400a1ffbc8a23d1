"""What unpacks to far more than it should is refused before it is unpacked."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from planish.errors import DataError, ExportError
from planish.export.runtimes.packed_file import Tensor, pack, unpack
from planish.files.archives import inflate, read_arrays


def test_arrays_are_read_up_to_a_bound(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(10), y=np.zeros((3, 4), np.float32))
    found = read_arrays(tmp_path / "a.npz", 10 * 8 + 12 * 4)
    assert (found["x"].tolist(), found["y"].shape) == (list(range(10)), (3, 4))
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(50_000_000, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(DataError, match="when it is unpacked"):
        read_arrays(tmp_path / "bomb.npz", 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_arrays(tmp_path / "bad.npz", 1_000_000)


def test_inflating_stops_at_the_bound() -> None:
    assert inflate(zlib.compress(b"a" * 1000), 1000) == b"a" * 1000
    for data, most in ((zlib.compress(b"a" * 1001), 1000), (zlib.compress(b"a" * 1000)[:-5], 1000), (b"no", 1000)):
        with pytest.raises(ValueError):
            inflate(data, most)


def test_a_packed_file_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.export.runtimes.packed_file._SMALL", 1_000_000)
    zeros = bytes(40_000_000)
    header = zlib.compress(b'{"sha256":"0","rest":%d,"tensors":[]}' % len(zlib.compress(zeros, 9)), 9)
    forged = b"planish packed 1\n" + len(header).to_bytes(4, "little") + header + zlib.compress(zeros, 9)
    tracemalloc.start()
    with pytest.raises(ExportError, match="unpack"):
        unpack(forged)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    header = zlib.compress(b'{"sha256":"0","rest":8,"tensors":[[0,4,[100000,100000],true,0,[]]]}', 9)
    with pytest.raises(ExportError, match="would unpack to 40000000000 bytes"):
        unpack(b"planish packed 1\n" + len(header).to_bytes(4, "little") + header + zlib.compress(b""))
    weights = bytes(1_000_000)
    assert unpack(pack(weights, [Tensor(0, 4, (250_000,))])) == weights, "a whole file of zeros is no bomb"
