"""An exception of the user's own network is one line that names its place; the traceback comes with --debug."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import invoke

from planish.testing import write_shapes

NETWORK = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, most):
        super().__init__()
        self.conv, self.fc, self.most = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes), most

    def forward(self, x):
        if len(x) > self.most:
            raise ValueError(f"{len(x)} images are too many")
        return self.fc(self.conv(x).mean((2, 3)))


def two(num_classes):
    return Net(num_classes, 2)


def none(num_classes):
    return Net(num_classes, 0)
"""


@pytest.mark.parametrize(("factory", "doing"), [("two", "while training"), ("none", "does not run")])
def test_the_place_is_named(tmp_path: Path, factory: str, doing: str):
    data = write_shapes(tmp_path / "shapes", per_class=12, size=16, channels=3)
    (tmp_path / "net.py").write_text(NETWORK)
    call = ["train", str(data), "--model", f"{tmp_path / 'net.py'}:{factory}", "--set", "training.epochs=1", "--out", str(tmp_path / "out")]
    result = invoke(call)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for words in ("net.py, line 12, in forward", "too many", doing):
        assert words in result.output.replace("\n", " ")
