"""Freed memory is used again, not fetched from the system anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from planish.devices.allocator import keep_freed_memory, return_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(30):  # small blocks come to lie between large ones at first
    torch.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1])
kept = resident()
return_freed_memory()
print(kept - resident())
"""


def counted(how: str) -> tuple[int, int]:
    """Page faults of five allocations of 80 MB, and the pages that are returned afterwards."""
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, check=True)
    faults, returned = map(int, done.stdout.split())
    return faults, returned


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_blocks_are_kept_and_can_be_returned() -> None:
    usual, _ = counted("leave")
    kept, returned = counted("keep")
    assert usual > 1000, "80 MB are 19,500 pages, or 40 huge ones each"
    assert kept < 0.3 * usual
    assert returned > 10_000, "one block of 80 MB"
