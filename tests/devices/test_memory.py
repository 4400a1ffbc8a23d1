"""Peak memory is that of the device that the code runs on."""

from __future__ import annotations

import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from planish.devices.memory import peak_memory


def test_a_network_on_the_cpu_uses_the_memory_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [1000]  # what the process really uses depends on what it freed before
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(rss=used[0]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a machine with a GPU that this network does not use
    with peak_memory(torch.device("cpu")) as peak:
        used[0] = 5000
        end = time.monotonic() + 30
        while peak.bytes == 0 and time.monotonic() < end:
            time.sleep(0.01)
        used[0] = 2000
    assert peak.bytes == 4000
