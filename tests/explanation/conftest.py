"""Short profiles: what these tests look at does not depend on how exactly times are known."""

from __future__ import annotations

import pytest

from planish.explanation.profiles import onnxruntime as onnxruntime_profile
from planish.explanation.profiles import openvino as openvino_profile


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onnxruntime_profile, openvino_profile):
        monkeypatch.setattr(module, "_SECONDS", 0.3)
