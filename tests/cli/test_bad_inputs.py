"""Twenty-six mistakes: each gets a message that says what, the rule, and what to do; exit code 2; no traceback; nothing half-written."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from cli_runner import invoke
from PIL import Image

from planish.testing import write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=12)


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))


def refused(*arguments: object, says: tuple[str, ...]) -> None:
    """Run the command; it must fail as a user's mistake and leave nothing new in the folder it ran in."""
    result = invoke([str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    text = " ".join(result.output.split())
    for words in says:
        assert words in text, text


def optimize(data: object, *more: object, says: tuple[str, ...], out: Path) -> None:
    refused("optimize", data, "--out", out, "--model", "resnet8", "--budget", "30s", *more, says=says)
    assert not out.exists() or not any(out.iterdir()), "something was left half-written"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    optimize(tmp_path / "nothing", says=("nothing", "does not exist"), out=tmp_path / "run")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "dog").mkdir()
    optimize(tmp_path / "data", says=("image",), out=tmp_path / "run")


def test_a_broken_jpeg_is_named_with_its_reason(data: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 24)).save(data / "disc" / "broken.jpg")
    (data / "disc" / "broken.jpg").write_bytes((data / "disc" / "broken.jpg").read_bytes()[:200])
    optimize(data, says=("broken.jpg", "--skip-bad"), out=tmp_path / "run")


def test_a_text_file_that_claims_to_be_an_image(data: Path, tmp_path: Path) -> None:
    (data / "disc" / "notes.png").write_text("not an image")
    optimize(data, says=("notes.png",), out=tmp_path / "run")


def test_an_empty_class(data: Path, tmp_path: Path) -> None:
    (data / "triangle").mkdir()
    optimize(data, says=("triangle",), out=tmp_path / "run")


def test_one_class_only(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "disc")
    shutil.rmtree(data / "cross")
    optimize(data, says=("class", "two"), out=tmp_path / "run")


def test_too_few_images_of_a_class(data: Path, tmp_path: Path) -> None:
    for file in sorted((data / "disc").iterdir())[1:]:
        file.unlink()
    optimize(data, says=("disc",), out=tmp_path / "run")


def test_a_class_missing_from_a_split(data: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(data, tmp_path / "split" / split)
    shutil.rmtree(tmp_path / "split" / "test" / "disc")
    optimize(tmp_path / "split", says=("disc", "test"), out=tmp_path / "run")


def test_a_decompression_bomb(data: Path, tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(data / "disc" / "bomb.png")
    optimize(data, says=("bomb.png", "pixels"), out=tmp_path / "run")


def test_a_manifest_that_names_missing_files(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\nb.png,dog\n")
    optimize(tmp_path / "list.csv", says=("a.png",), out=tmp_path / "run")


def test_a_manifest_without_the_right_columns(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file,kind\na.png,cat\n")
    optimize(tmp_path / "list.csv", says=("path", "label"), out=tmp_path / "run")


def test_a_model_nobody_knows(data: Path, tmp_path: Path) -> None:
    optimize(data, "--model", "resnet81", says=("resnet81", "resnet8"), out=tmp_path / "run")


def test_a_factory_that_is_not_in_the_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build():\n    pass\n")
    optimize(data, "--model", f"{tmp_path / 'net.py'}:make", says=("make",), out=tmp_path / "run")


def test_weights_that_do_not_exist(data: Path, tmp_path: Path) -> None:
    optimize(data, "--weights", tmp_path / "none.pth", says=("none.pth",), out=tmp_path / "run")


def test_weights_of_another_network(data: Path, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    optimize(data, "--weights", tmp_path / "other.pth", says=("features.0.weight",), out=tmp_path / "run")


def test_a_pickle_is_never_run(data: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"open({str(tmp_path / 'owned')!r}, 'w').close()",)

    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump(Evil(), file)
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        optimize(data, "--weights", tmp_path / name, says=(name,), out=tmp_path / "run")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--max-latency", "fast", ("'fast' is not a latency", "5ms")),
        ("--max-size", "-4MB", ("'-4MB' is not a size", "4MB")),
        ("--budget", "soon", ("'soon' is not a time", "20m")),
        ("--max-drop", "-1", ("between 0 and 100",)),
        ("--risk", "10", ("a risk of 10", "at most 0.5", "--risk 0.1, which is 10 %")),
        ("--risk", "0", ("a risk of 0", "above 0")),
        ("--risk", "nan", ("a risk of nan", "--risk 0.1")),
        ("--runtime", "onnxruntim", ("no runtime is called 'onnxruntim'", "onnxruntime")),
        ("--threads", "1000", ("1000 threads", "cores")),
        ("--batch", "0", ("--batch 0", "at least 1")),
        ("--image-size", "4", ("4 pixels", "between 8")),
        ("--image-size", "48x4", ("48x4 pixels", "HEIGHTxWIDTH")),
        ("--image-size", "48by192", ("48by192", "for example 224 or 48x192")),
        ("--train", "maybe", ("maybe", "always")),
    ],
)
def test_an_option_that_cannot_be(data: Path, tmp_path: Path, option: str, value: str, says: tuple[str, ...]) -> None:
    optimize(data, f"{option}={value}", says=says, out=tmp_path / "run")


def test_a_folder_that_holds_something_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    refused("optimize", data, "--out", tmp_path / "run", "--model", "resnet8", says=("not an empty folder", "--out"))
    assert [f.name for f in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_model_is_not_saved_over_the_folder_one_is_in(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("train", data, "--model", "resnet8", "--out", ".", says=("exists already", "--out"))
    refused("train", data, "--model", "resnet8", "--out", ".", "--resume", says=("exists already", "--out"))


def test_resuming_a_run_that_never_was(data: Path, tmp_path: Path) -> None:
    optimize(data, "--resume", says=("no run", "--resume"), out=tmp_path / "run")


def test_a_model_that_cannot_be_exported(data: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(24 * 24, 3)\n"
        "    def forward(self, x):\n"
        "        values, counts = x.flatten().unique(return_counts=True)\n"
        "        scale = float(values.sum().item()) * 0 + len(counts.tolist()) * 0 + 1\n"
        "        return self.fc(x.flatten(1)) * scale\n"
        "def make():\n"
        "    return Net()\n"
    )
    refused(
        "optimize", data, "--out", tmp_path / "run", "--model", f"{tmp_path / 'net.py'}:make", "--epochs", "1", "--budget", "30s",
        says=("export",),
    )  # fmt: skip


def test_a_loss_that_becomes_nan(data: Path, tmp_path: Path) -> None:
    refused(
        "train", data, "--model", "resnet8", "--set", "learning_rate=1e30", "--epochs", "2", "--out", tmp_path / "model",
        says=("learning rate",),
    )  # fmt: skip
    assert not (tmp_path / "model").exists()


def test_a_plan_that_does_not_combine(data: Path, tmp_path: Path) -> None:
    assert invoke(["train", str(data), "--model", "resnet8", "--epochs", "1", "--out", str(tmp_path / "model")]).exit_code == 0
    (tmp_path / "plan.yaml").write_text("- {name: to_onnx}\n- {name: channel_pruning, pruning_ratio: 0.5}\n")
    more = ("--plan", tmp_path / "plan.yaml", "--out", tmp_path / "small")
    refused("compress", tmp_path / "model", data, *more, says=("step 2 (channel_pruning)", "needs format torch"))
    assert not (tmp_path / "small").exists()


def test_a_bundle_that_was_changed(tmp_path: Path) -> None:
    refused("verify", tmp_path, says=("bundle.json",))
    (tmp_path / "bundle.json").write_text(json.dumps({"files": ["../../etc/passwd"]}))
    (tmp_path / "bundle.json.sha256").write_text(hashlib.sha256((tmp_path / "bundle.json").read_bytes()).hexdigest() + "  bundle.json\n")
    refused("verify", tmp_path, says=("bundle.json",))


def test_a_bench_of_one(tmp_path: Path) -> None:
    refused("bench", tmp_path, says=("two",))


def test_a_report_of_no_run(tmp_path: Path) -> None:
    refused("report", tmp_path, says=("result.json",))


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "model", "--calibrate"),
        ("few-shot", "--shots", "1,5", "--weights", "imagenet"),
        ("label-issues",),
        ("learning-curve",),
        ("crossval", "--folds", "3"),
        ("ensembles",),
        ("optimize", "--teachers", "2"),
    ],
)
def test_what_is_told_of_classes_only(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, *options = arguments
    model = [option for option in options if option == "model"]
    rest = [option for option in options if option != "model"]
    refused(command, *model, "fashion-scenes-20", *rest, says=("fashion-scenes-20", "images of one class each"))
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused("train", data, "--model", "resnet8", "--out", tmp_path / "file" / "model", says=("Not a directory", "another folder"))
