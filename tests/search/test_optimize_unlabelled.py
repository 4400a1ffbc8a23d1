"""The main job on images without labels: its options, the commands that refuse such images, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import invoke
from PIL import Image
from torch import nn

import planish
from planish.testing import write_shapes

SIDE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crosses, then discs, then squares, 150 of each, in one folder."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shapes = write_shapes(folder / "shapes", per_class=150, size=SIDE, channels=3)
    (folder / "photos").mkdir()
    for number, file in enumerate(sorted(shapes.rglob("*.png"))):
        file.rename(folder / "photos" / f"{number:04d}.png")
    return folder / "photos"


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inner, outer in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU(), nn.Conv2d(outer, outer, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def exported(network: nn.Module, path: Path) -> Path:
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    torch.onnx.export(
        network.eval(), (torch.randn(2, 3, SIDE, SIDE),), str(path), dynamo=False, dynamic_axes=axes, input_names=["x"], output_names=["y"]
    )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(classifier(), tmp_path_factory.mktemp("model") / "my.onnx")


def trained_on(photos: Path) -> nn.Module:
    """A network that knows three shapes, among ten classes; it expects pixels from 0 to 1."""
    network, files = classifier(), sorted(photos.iterdir())
    images = torch.from_numpy(np.stack([np.asarray(Image.open(each)) for each in files])).permute(0, 3, 1, 2) / 255
    labels = torch.arange(len(files)) // 150
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(20):
        for rows in torch.randperm(len(files)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-drop", "1", "--max-change", "1"], "give one of them"),
        (["--max-change", "101"], "0 to 100 %"),
        (["--metric", "macro-f1"], "agreement with the original"),
        (["--train", "always"], "answers of a trained network"),
        (["--teachers", "2"], "images without labels"),
        (["--unlabelled", "--layout", "classes"], "omit one"),
        (["--task", "detection"], "--task outputs compares the outputs of any network"),
    ],
)
def test_options_that_do_not_go_with_them(photos: Path, file: Path, tmp_path: Path, options: list[str], message: str) -> None:
    said = invoke(["optimize", str(photos), "--model", str(file), "--out", str(tmp_path / "run"), *options])
    assert said.exit_code == 2
    assert message in " ".join(said.output.split())
    assert not (tmp_path / "run").exists()


def test_a_limit_on_changes_needs_images_without_labels(file: Path, tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "shapes", per_class=8, size=SIDE, channels=3)
    said = invoke(["optimize", str(folder), "--model", str(file), "--max-change", "1", "--out", str(tmp_path / "run")])
    assert said.exit_code == 2
    assert "--max-drop; --unlabelled ignores the labels" in " ".join(said.output.split())


def test_untrained_networks_have_no_answers(photos: Path, tmp_path: Path) -> None:
    said = invoke(["optimize", str(photos), "--model", "resnet8x0.5", "--out", str(tmp_path / "run")])
    assert said.exit_code == 2
    assert "--weights" in said.output


@pytest.mark.parametrize("command", ["train", "evaluate", "compare", "experiment", "crossval", "few-shot", "data"])
def test_commands_that_need_labels_say_so(photos: Path, file: Path, tmp_path: Path, command: str) -> None:
    words = {
        "evaluate": [str(file), str(photos)],
        "compare": [str(photos), "--model", str(file), "--out", str(tmp_path / "out")],
        "experiment": [str(photos), "--model", str(file), "--vary", "label_smoothing=0,0.1", "--out", str(tmp_path / "out")],
    }.get(command, [str(photos)])
    said = invoke([command, *words])
    text = " ".join(said.output.split())
    assert said.exit_code == 2, text
    assert "images without labels" in text
    assert "--max-change" in text


@pytest.mark.slow
def test_a_file_is_optimized_on_images_without_labels(photos: Path, tmp_path: Path) -> None:
    file, out = exported(trained_on(photos), tmp_path / "my.onnx"), tmp_path / "run"
    result = planish.optimize(photos, model=str(file), mean=0, std=1, max_change=5.0, budget="60s", out=out)
    page = (out / "report.html").read_text()
    answers = {name: np.load(out / "work" / "answers" / name / "0.npy").argmax(1) for name in ("train", "validation", "test")}
    with np.load(out / "predictions.npz") as saved:
        np.testing.assert_array_equal(saved["targets"], answers["test"])
        before, after = (saved[name].argmax(1) == saved["targets"] for name in ("baseline", "chosen"))
        logits = {name: torch.from_numpy(saved[name]).double().log_softmax(1) for name in ("baseline", "chosen")}
    assert before.mean() > 0.97, "the exported original gives the answers of the network"
    measured = result.chosen.measurements
    assert (result.metric, result.goal.max_drop_points) == ("agreement", 5.0)
    assert measured["agreement"].value == pytest.approx(100 * after.mean())
    assert result.drop.value == pytest.approx(100 * (before.mean() - after.mean()))
    expected = (logits["baseline"].exp() * (logits["baseline"] - logits["chosen"])).sum(1).mean()
    assert measured["kl_divergence"].value == pytest.approx(expected.item(), abs=1e-9)
    assert {named.name for named in result.per_class} == {"0", "1", "2"}
    assert "of agreement on test" in result.verdict
    assert any("take the place of labels" in text for text in result.notes)
    text = json.dumps(json.loads((out / "result.json").read_text())) + page
    assert "accuracy" not in text.lower().replace(str(photos).lower(), "")
    assert "at most 5 % of answers change" in page
    assert "Do not trust this page" not in page
    assert "KL divergence" in page
    assert planish.verify(out, latency=False).ok


@pytest.mark.slow
def test_a_saved_network_is_optimized_on_class_folders_without_their_labels(tmp_path: Path) -> None:
    shapes = write_shapes(tmp_path / "shapes", per_class=100, size=SIDE)
    planish.train(shapes, model="resnet8x0.5", epochs=4, out=tmp_path / "model")
    out, weights = tmp_path / "run", tmp_path / "model" / "model.safetensors"
    result = planish.optimize(shapes, model="resnet8x0.5", weights=weights, unlabelled=True, budget="45s", out=out)
    assert result.metric == "agreement"
    assert {named.name for named in result.per_class} <= {"cross", "disc", "square"}
    again = planish.optimize(shapes, model="resnet8x0.5", weights=weights, unlabelled=True, budget="45s", out=out, resume=True)
    assert again.chosen.key == result.chosen.key
