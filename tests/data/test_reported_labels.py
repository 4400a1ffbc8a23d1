"""YOLO labels as public bug reports have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.data import load_images
from planish.data.annotations.yolo_text import class_number
from planish.progress import collecting_notes

YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"  # as Roboflow writes it


def write_yolo(root: Path, lines: list[str], yaml: str = YAML) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 4)):
        for i in range(count):
            image, label = root / split / "images" / f"{split}{i}.png", root / split / "labels" / f"{split}{i}.txt"
            image.parent.mkdir(parents=True, exist_ok=True)
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(image)
            label.write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml)
    return root


@pytest.mark.parametrize(
    "lines",
    [
        ["0 0.5 0.5 0.3 0.3", "1 0.3 0.3 0.2 0.2"],
        ["0.0 0.5 0.5 0.3 0.3", "1.000000000000000000e+00 3e-1 3e-1 2e-1 2e-1"],  # roboflow/supervision#2580
        ["", "  0   0.5 0.5\t0.3 0.3  ", "", "1 .3 .3 .2 .2"],
    ],
    ids=["usual", "decimals", "blank line first"],
)
def test_labels_are_read_in_the_forms_that_tools_write(tmp_path: Path, lines: list[str]):
    with collecting_notes() as notes:
        images = load_images(write_yolo(tmp_path / "pets", lines))
    assert images.task == "detection"
    assert images.class_names == ("cat", "dog")
    targets = [target for split in ("train", "validation", "test") for target in images.splits[split].targets]
    assert [target.labels.tolist() for target in targets] == [[0, 1]] * 16
    assert any("../test/images" in note and "does not exist" in note for note in notes)  # ultralytics/ultralytics#1027


@pytest.mark.parametrize(
    ("word", "number"), [("7", 7), ("7.0", 7), ("7.5", None), ("-1", None), ("nan", None), ("inf", None), ("cat", None)]
)
def test_a_class_is_a_whole_number_in_any_notation(word: str, number: int | None):
    assert class_number(word) == number
