"""``--image-size`` with height and width, from the training to the exported file."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from cli_runner import invoke

from planish.testing import write_shapes


def test_height_and_width_reach_the_file(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=8, size=24)
    size = ["--image-size", "16x24"]
    done = invoke(["train", str(data), "--model", "resnet8x0.25", "--epochs", "1", *size, "--out", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    spec = json.loads((tmp_path / "model" / "artifact.json").read_text())["input_spec"]
    assert (spec["height"], spec["width"]) == (16, 24)
    assert "image_size: 16x24" in (tmp_path / "model" / "recipe.yaml").read_text()
    done = invoke(["export", str(tmp_path / "model"), str(data), "--to", "onnx", "--out", str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "bundle").glob("*.onnx")
    assert [side.dim_value for side in onnx.load(str(file)).graph.input[0].type.tensor_type.shape.dim][1:] == [16, 24, 1]
    assert invoke(["evaluate", str(tmp_path / "bundle"), str(data)]).exit_code == 0
    done = invoke(["train", str(data), "--model", "resnet8", "--set", "image_size=16x", "--out", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "image_size" in done.output
