"""What a data source holds is said by every command that reads one, and every one of them takes --layout."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from cli_runner import invoke

from planish import commands
from planish.testing import write_shapes


def test_every_command_that_takes_data_takes_layout() -> None:
    functions = {name: inspect.signature(getattr(commands, name)).parameters for name in commands.__all__ if name.islower()}
    taking = [name for name, given in functions.items() if "data" in given and name != "explain"]
    assert {"data", "train", "evaluate", "optimize", "compare", "compress", "export", "tile", "crossval", "retrain"} <= set(taking)
    for name in taking:
        assert "layout" in functions[name], name


def shapes_with_others(folder: Path) -> Path:
    write_shapes(folder, per_class=8)
    (folder / "disc" / "photo.heic").write_text("x")
    (folder / "disc" / "val.json").write_text("{}")
    return folder


def test_planish_data_names_task_layout_and_what_is_left_out(tmp_path: Path) -> None:
    data = shapes_with_others(tmp_path / "d")
    found = json.loads(invoke(["data", str(data), "--json"]).stdout)
    assert found["task"] == "classification"
    assert found["objects"] is None
    assert found["inventory"]["layout"] == "class folders"
    assert {one["what"]: one["count"] for one in found["inventory"]["left_out"]} == {"images": 1, "files": 1}
    text = invoke(["data", str(data)]).stdout
    assert "left out 1 image: HEIC files (.heic) are not read; convert them to PNG or JPEG (disc/photo.heic)" in text
    assert "task: classification; layout: class folders" in text


def test_a_task_or_layout_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "d", per_class=4)
    for options, said in (
        (("--task", "detection"), "not for the task 'detection'"),
        (("--layout", "yolo"), "has no YOLO text files"),
        (("--layout", "folders"), 'Choose from: "classes", "splits", "coco"'),
    ):
        result = invoke(["data", str(data), *options])
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())


def test_what_is_left_out_is_in_the_record_of_a_training(tmp_path: Path) -> None:
    data = shapes_with_others(tmp_path / "d")
    (data / "cross").rename(data / "val")  # a class of that name, beside others
    arguments = ["train", str(data), "--model", "resnet8", "--epochs", "1", "--image-size", "16", "--out", str(tmp_path / "m")]
    refused = invoke(arguments)
    assert refused.exit_code == 2
    assert "--layout classes" in " ".join(refused.output.split())
    result = invoke([*arguments, "--layout", "classes"])
    assert result.exit_code == 0, result.output
    notes = json.loads((tmp_path / "m" / "evaluation.json").read_text())["notes"]
    assert any(text.startswith("left out 1 image: HEIC") for text in notes)
    result = invoke(["evaluate", str(tmp_path / "m"), str(data), "--layout", "classes"])
    assert result.exit_code == 0, result.output
    assert "left out 1 image: HEIC" in result.output
