"""The commands in the order in which people use them, on images that a small network learns in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_runner import invoke

import planish.commands
from planish.split_assignment import SplitAssignment
from planish.testing import write_shapes

PLAN = """
- {name: channel_pruning, pruning_ratio: 0.5}
- {name: distill, epochs: 1}
- {name: to_onnx}
- {name: int8}
- {name: to_openvino}
"""


def run(*arguments: object, code: int = 0) -> str:
    result = invoke([str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=60)


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    found = json.loads(run("train", data, "--model", "resnet8", "--epochs", 12, "--out", folder, "--json"))
    assert found["accuracy"]["value"] > 45, "three classes, so a third is guessing"
    return folder


def test_a_saved_model_is_evaluated_as_it_was(data: Path, model: Path) -> None:
    first, second = (json.loads(run("evaluate", model, data, "--json")) for _ in range(2))
    assert first == second
    assert "accuracy" in run("evaluate", model, data)
    for given in (("--model", model), (f"--model={model}",)):
        assert json.loads(run("evaluate", data, *given, "--json")) == first


def test_an_evaluation_can_calibrate_and_corrupt(data: Path, model: Path) -> None:
    plain = json.loads(run("evaluate", model, data, "--json"))
    found = json.loads(run("evaluate", model, data, "--calibrate", "--corruptions", "--json"))
    assert plain == {name: found[name] for name in plain}
    new = set(found) - set(plain)
    assert {"temperature", "log_loss_scaled", "calibration_error_scaled", "accuracy_corrupted", "accuracy_jpeg"} < new
    assert len(new) == 3 + 12
    assert found["temperature"]["value"] > 0
    assert found["accuracy_corrupted"]["value"] < found["accuracy"]["value"]
    shown = run("evaluate", model, data, "--calibrate")
    assert "temperature" in shown
    assert "corrupted" not in shown
    refused = invoke(["evaluate", str(model), str(data), "--split", "validation", "--calibrate"])
    assert (refused.exit_code, "evaluate test" in refused.output) == (2, True)


def test_training_and_evaluating_leave_a_page_that_can_be_made_again(data: Path, model: Path, tmp_path: Path) -> None:
    assert {"evaluation.json", "evaluation.npz", "evaluation.html", "history.json", "augmented.png", "recipe.yaml"} <= {
        f.name for f in model.iterdir()
    }
    page = (model / "evaluation.html").read_text()
    assert "How it was trained" in page
    assert "Training augmentation" in page
    shown = run("evaluate", model, data, "--out", tmp_path / "new" / "page", "--precision", 80)
    assert "evaluation.html" in shown
    found = json.loads((tmp_path / "new" / "page" / "evaluation.json").read_text())
    told = json.loads(run("evaluate", model, data, "--calibrate", "--json"))
    assert found["metrics"] == told
    assert [threshold["target_precision"] for threshold in found["thresholds"]] == [80, 90, 95, 99]
    assert {each["threshold"]["target_precision"] for each in found["per_class"]} == {80}
    file = tmp_path / "new" / "page" / "evaluation.html"
    before = file.read_text()
    file.unlink()
    run("report", file.parent)
    assert file.read_text() == before


def test_a_bundle_and_a_file_are_no_place_for_an_evaluation(data: Path, model: Path, small: Path) -> None:
    for place in (small, model / "recipe.yaml"):
        refused = invoke(["evaluate", str(model), str(data), "--out", str(place)])
        assert (refused.exit_code, "choose another --out" in " ".join(refused.output.split())) == (2, True)


def test_precision_belongs_to_the_page(data: Path, model: Path, tmp_path: Path) -> None:
    for options in (["--precision", "90"], ["--precision", "100", "--out", str(tmp_path / "page")]):
        refused = invoke(["evaluate", str(model), str(data), *options])
        assert refused.exit_code == 2


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_export_can_be_calibrated(to: str, data: Path, model: Path, tmp_path: Path) -> None:
    run("export", model, data, "--to", to, "--calibrate", "--out", tmp_path / "bundle")
    before, after = (json.loads(run("evaluate", m, data, "--calibrate", "--json")) for m in (model, tmp_path / "bundle"))
    assert abs(before["temperature"]["value"] - 1) > 0.02
    assert after["temperature"]["value"] == pytest.approx(1, abs=0.01)
    assert after["accuracy"]["value"] == before["accuracy"]["value"]
    assert after["log_loss"]["value"] == pytest.approx(before["log_loss_scaled"]["value"], abs=1e-3)
    run("verify", tmp_path / "bundle", "--no-latency")


@pytest.fixture(scope="module")
def small(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    (folder / "plan.yaml").write_text(PLAN)
    found = json.loads(run("compress", model, data, "--plan", folder / "plan.yaml", "--out", folder / "bundle", "--json"))
    assert found["before"]["accuracy"]["value"] == json.loads(run("evaluate", model, data, "--json"))["accuracy"]["value"]
    return folder / "bundle"


def test_a_compressed_model_verifies_until_a_file_changes(small: Path) -> None:
    assert "verifies" in " ".join(run("verify", small, "--no-latency").split())
    weights = small / "model.bin"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert "model.bin" in run("verify", small, code=1)
    finally:
        weights.write_bytes(kept)


def test_a_bundle_is_evaluated_and_timed(data: Path, model: Path, small: Path, tmp_path: Path) -> None:
    assert json.loads(run("evaluate", small, data, "--json"))["accuracy"]["value"] > 30
    run("export", model, data, "--to", "onnx", "--out", tmp_path / "fp32")
    found = json.loads(run("bench", tmp_path / "fp32", small, "--seconds", 0.3, "--json"))
    assert set(found["verdicts"]) == {str(tmp_path / "fp32"), str(small)}
    assert found["measurements"][str(small)]["latency_ms"]["value"] > 0


def test_data_and_doctor_speak_json(data: Path) -> None:
    assert json.loads(run("data", data, "--json"))["images"] == 180
    assert json.loads(run("doctor", "--json"))["runtimes"]["onnxruntime"]


def test_a_network_handed_over_in_python_ships(data: Path, tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = torch.nn.Sequential(
                torch.nn.Conv2d(1, 16, 3, 2, 1),
                torch.nn.BatchNorm2d(16),
                torch.nn.ReLU(),
                torch.nn.Conv2d(16, 32, 3, 2, 1),
                torch.nn.ReLU(),
            )
            self.head = torch.nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x).mean((2, 3)))

    result = planish.optimize(data, model=Net(), budget="40s", epochs=2, out=tmp_path / "run")
    assert planish.verify(tmp_path / "run").ok
    assert result.baseline.measurements["size_bytes"].value > 0
    assert (tmp_path / "run" / "report.html").exists()
    kept = SplitAssignment.load(tmp_path / "run" / "splits.json")
    assert kept == SplitAssignment.load(tmp_path / "run" / "bundle" / "splits.json")
    assert sum(kept.counts().values()) == len(list(data.rglob("*.png")))
