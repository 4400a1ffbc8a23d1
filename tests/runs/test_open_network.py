"""A network and its weights are compressed, exported and evaluated without having been trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_runner import invoke

from planish.errors import GoalError, ModelError
from planish.runs.open_model import open_model
from planish.runs.open_network import open_network
from planish.settings import ModelSettings
from planish.testing import write_shapes

NETWORK = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a, self.lo, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.lo(self.a(x).relu()).relu().mean((2, 3)))


class Branching(Net):
    def forward(self, x):
        x = self.a(x).relu()
        x = self.lo(x) if x.mean() > 0.6 else x
        return self.fc(x.mean((2, 3)))


def make(num_classes):
    return Net(num_classes)


def branching(num_classes):
    return Branching(num_classes)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    write_shapes(folder / "shapes", per_class=12, size=16, channels=3)
    (folder / "net.py").write_text(NETWORK)
    space: dict[str, object] = {}
    exec(NETWORK, space)
    classes = sum(path.is_dir() for path in (folder / "shapes").iterdir())
    for name, outputs in (("net.pth", classes), ("other.pth", classes + 3)):
        torch.manual_seed(0)
        torch.save({"state_dict": space["make"](outputs).state_dict()}, folder / name)  # type: ignore[operator]
    return folder


def call(place: Path, *words: str) -> str:
    result = invoke([*words, str(place / "shapes")])
    output = result.output.replace("\n", " ")
    assert "Traceback" not in output
    assert result.exit_code in (0, 2), output
    return output


def named(place: Path, factory: str = "make", *more: str) -> list[str]:
    return ["--model", f"{place / 'net.py'}:{factory}", "--weights", str(place / "net.pth"), *more]


def test_export_and_compress_without_train(place: Path, tmp_path: Path) -> None:
    given = named(place, "make", "--mean", "0.5", "--std", "0.25")
    assert "bundle" in call(place, "export", *given, "--to", "onnx", "--out", str(tmp_path / "bundle"))
    opened = open_model(tmp_path / "bundle")
    assert opened.preprocessing.mean == (0.5, 0.5, 0.5)
    (tmp_path / "plan.yaml").write_text("- {name: channel_pruning, pruning_ratio: 0.5, round_to: 1}\n")
    assert "after:" in call(place, "compress", *given, "--plan", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "small"))
    assert open_model(tmp_path / "small").format == "torch"
    assert "accuracy" in call(place, "evaluate", *given)


def test_what_is_missing_is_asked_for(place: Path, tmp_path: Path) -> None:
    assert "--mean 0 --std 1 for none" in call(place, "export", *named(place), "--to", "onnx", "--out", str(tmp_path / "b"))
    with pytest.raises(ModelError, match="add --weights"):
        open_network(ModelSettings("resnet8"), place / "shapes")
    with pytest.raises(ModelError, match=r"no classifier for the .* classes"):
        open_network(ModelSettings(f"{place / 'net.py'}:make", place / "other.pth", mean=[0], std=[1]), place / "shapes")
    with pytest.raises(GoalError, match="one value for each of 3"):
        open_network(ModelSettings(f"{place / 'net.py'}:make", place / "net.pth", mean=[0, 1], std=[1]), place / "shapes")
    assert "only valid with a network's name" in call(place, "export", str(tmp_path), "--weights", "x.pth", "--to", "onnx")
    assert "requires an argument" in call(place, "export", "--to", "onnx")


def test_a_network_that_cannot_be_exported_is_one_line_with_its_place(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for to in ("onnx", "torch_export"):
        words = call(place, "export", *named(place, "branching", "--mean", "0", "--std", "1"), "--to", to, "--out", str(tmp_path / to))
        assert "net.py:17" in words
        assert "def forward(self, arg0_1" not in words + "".join(capfd.readouterr()), "the graph is not printed"
