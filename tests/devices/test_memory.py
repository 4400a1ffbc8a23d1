"""Peak memory is that of the device that the code runs on."""

from __future__ import annotations

import time

import pytest
import torch

from planish.devices.memory import peak_memory


def test_a_network_on_the_cpu_uses_the_memory_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a machine with a GPU that this network does not use
    with peak_memory(torch.device("cpu")) as peak:
        held = torch.ones(10_000_000)
        time.sleep(0.2)
    assert peak.bytes > 30e6
    assert len(held)
