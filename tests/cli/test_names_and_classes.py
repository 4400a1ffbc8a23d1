"""File names that are not UTF-8 and awkward labels, from the images to the last file; and evaluation on fewer classes in another order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_runner import invoke

import planish
from planish import commands
from planish.invocation import invoked
from planish.testing import write_shapes

CLASSES = ("[red]circle", 'squ<a> & "re"', os.fsdecode(b"str\xefpes"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of shapes under names of Latin-1, and a network that was trained on them for an epoch."""
    root = tmp_path_factory.mktemp("latin1")
    data = root / os.fsdecode(b"d\xe4ta")
    write_shapes(root / "shapes", per_class=12, size=16, channels=3)
    for kind, name in zip(sorted((root / "shapes").iterdir()), CLASSES, strict=False):
        for file in sorted(kind.iterdir()):
            (data / name).mkdir(parents=True, exist_ok=True)
            file.rename(data / name / os.fsdecode(b"caf\xe9 " + os.fsencode(file.name)))
    changes = ["epochs=1", "image_size=16"]
    with invoked(f"planish train {data}"):
        planish.train(data, model="resnet8", changes=changes, out=root / "model")
    return root


def test_training_writes_all_its_files(folder: Path) -> None:
    assert not list((folder / "model").rglob("*.partial"))
    page = (folder / "model" / "evaluation.html").read_text(encoding="utf-8")
    assert "caf%E9" in page
    assert "str%EFpes" in page
    assert "squ&lt;a&gt; &amp; &#34;re&#34;" in page
    assert "squ<a>" not in page
    saved = json.loads((folder / "model" / "evaluation.json").read_bytes())
    assert saved["data"].endswith("d%E4ta")
    assert "d%E4ta" in saved["command"]
    commands.report(folder / "model")


def test_fewer_classes_in_another_order_are_evaluated(folder: Path) -> None:
    data = folder / "fewer"
    for number, name in enumerate(CLASSES[:2]):
        (data / name).mkdir(parents=True)
        for file in (folder / os.fsdecode(b"d\xe4ta") / name).iterdir():
            (data / name / f"{number}{len(os.listdir(data / name))}.png").write_bytes(file.read_bytes())
    out = folder / os.fsdecode(b"p\xe4ge")
    result = invoke(["evaluate", str(folder / "model"), str(data), "--split", "train", "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = (out / "evaluation.html").read_text(encoding="utf-8")
    assert "str%EFpes" in page
    assert "[red]circle" in page
    assert "'str%EFpes'" in result.output
    (data / "unknown").mkdir()
    next((data / CLASSES[0]).iterdir()).rename(data / "unknown" / "1.png")
    result = invoke(["evaluate", str(folder / "model"), str(data)])
    assert result.exit_code == 2
    assert "the model lacks 1 of the classes in the images: 'unknown'" in " ".join(result.output.split())
