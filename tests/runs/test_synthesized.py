"""Synthesized images as a folder: of which networks they are made, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from planish.commands import compress, synthesize
from planish.compression import Int8
from planish.data import Decoding, load_unlabelled
from planish.errors import DataError, GoalError, ModelError
from planish.export import ToOnnx
from planish.plan import Plan
from planish.progress import collecting_notes

NETWORK = """from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )
"""


def written(folder: Path, channels: int = 3) -> tuple[str, Path]:
    """A network as people write it, and its weights."""
    file, weights = folder / "net.py", folder / "net.pth"
    file.write_text(NETWORK.replace("CHANNELS", str(channels)))
    space: dict[str, object] = {}
    exec(file.read_text(), space)
    torch.manual_seed(0)
    made: nn.Module = space["make"]()  # type: ignore[operator]
    made(torch.randn(64, channels, 16, 16))
    torch.save(made.state_dict(), weights)
    return f"{file}:make", weights


def test_a_network_without_images_is_calibrated_and_says_with_what(tmp_path: Path) -> None:
    name, weights = written(tmp_path)
    with collecting_notes(silent=True) as notes:
        folder = synthesize(name, out=tmp_path / "made", count=12, steps=5, weights=weights, mean=0.5, std=0.25, image_size="16x24")
    assert any("12 images of 16 x 24 pixels" in text and "2 batch norms" in text for text in notes)
    assert sorted(file.name for file in folder.iterdir()) == [*(f"{i:04}.png" for i in range(12)), "synthesized.txt"]
    assert Image.open(folder / "0003.png").size == (24, 16)
    with collecting_notes(silent=True) as notes:
        found = compress(
            name, folder, plan=Plan(ToOnnx(), Int8()), out=tmp_path / "small", weights=weights, mean=0.5, std=0.25, image_size="16x24"
        )
    assert found.after["agreement"].value >= 50
    assert any("synthesized" in text and "real images" in text for text in notes)


def test_an_onnx_file_has_no_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    made(torch.randn(64, 3, 16, 16))
    torch.onnx.export(made.eval(), (torch.randn(1, 3, 16, 16),), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17)
    with collecting_notes(silent=True) as notes:
        synthesize(str(tmp_path / "net.onnx"), out=tmp_path / "made", count=6, steps=3, mean=0, std=1)
    assert any("keeps no statistics" in text for text in notes)
    assert Image.open(tmp_path / "made" / "0000.png").size == (16, 16)


def test_a_network_of_one_channel_gets_grey_images(tmp_path: Path) -> None:
    name, weights = written(tmp_path, channels=1)
    folder = synthesize(name, out=tmp_path / "made", count=6, steps=3, weights=weights, mean=0.5, std=0.25, image_size=16)
    assert Image.open(folder / "0000.png").mode == "L"


def test_mistakes_are_named_and_nothing_is_overwritten(tmp_path: Path) -> None:
    name, weights = written(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        synthesize(name, out=tmp_path / "there", weights=weights, mean=0.5, std=0.25)
    with pytest.raises(GoalError, match="--count 2"):
        synthesize(name, out=tmp_path / "made", count=2, weights=weights, mean=0.5, std=0.25)
    with pytest.raises(GoalError, match="normalised"):
        synthesize(name, out=tmp_path / "made", weights=weights)
    with pytest.raises(ModelError):
        synthesize(str(tmp_path / "no-such-model"), out=tmp_path / "made")
    assert not (tmp_path / "made").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pth", "net.py", "there"], "no folder is left behind"


def test_few_images_name_the_way_to_more(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="planish synthesize"):
        load_unlabelled(str(tmp_path), Decoding(16, 3))
