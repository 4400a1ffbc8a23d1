"""The peak memory of a block of code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

_EVERY_SECONDS = 0.05


class Peak:
    """The peak memory in bytes, beyond what was in use before."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory of this process, or of the CUDA device if ``device`` is one, while the block runs."""
    peak, done = Peak(), threading.Event()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    process = psutil.Process()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(_EVERY_SECONDS):
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)

    thread = threading.Thread(target=watch, name="planish-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
