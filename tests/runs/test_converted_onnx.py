"""External ONNX classifiers as networks in a run: equal to the file, saved and rebuilt, or left as files with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from cli_runner import invoke
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import nn

from planish.data.normalisation import Normalise
from planish.errors import GoalError, ModelError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.bundle.folder import write_bundle
from planish.export.runtimes.registry import load
from planish.models import load_artifact, save_artifact
from planish.progress import collecting_notes
from planish.runs.converted_onnx import converted_job
from planish.runs.external_onnx import file_job
from planish.settings import DeploymentTarget, ModelSettings
from planish.testing import write_shapes

SIDE = 16


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("photos") / "shapes", per_class=10, size=SIDE, channels=3)


def exported(file: Path, *ends: nn.Module, batch: int | None = None, sides: tuple[str | None, str | None] = (None, None)) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3), *ends,
    )  # fmt: skip
    free = {axis: name for axis, name in zip((2, 3), sides, strict=True) if name}
    axes = {"x": {0: "N", **free}, "y": {0: "N"}} if batch is None else None
    images = torch.randn(batch or 2, 3, SIDE, SIDE)
    torch.onnx.export(
        network.eval(), (images,), str(file), dynamo=False, dynamic_axes=axes, input_names=["x"], output_names=["y"], opset_version=17
    )
    return file


@pytest.mark.parametrize("ends", [(), (nn.Softmax(1),), (nn.Sigmoid(),)])
@pytest.mark.parametrize("batch", [None, 1])
def test_logits_are_those_of_the_file(shapes: Path, tmp_path: Path, ends: tuple[nn.Module, ...], batch: int | None) -> None:
    file = exported(tmp_path / "net.onnx", *ends, batch=batch)
    given = file_job(shapes, ModelSettings(str(file)))
    artifact = converted_job(given, file).artifact
    images = np.ascontiguousarray(given.task.split("validation").images(artifact.input_spec, artifact.preprocessing))
    found = TorchPredictor(artifact.module, artifact.preprocessing)(images)["logits"]
    expected = load(given.artifact.files, "onnxruntime")(images)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert artifact.format == "torch"


def test_folded_batch_norm_is_put_back_with_the_statistics_of_images(shapes: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "net.onnx")
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(str(file)).graph.node)
    given = file_job(shapes, ModelSettings(str(file)))
    module = converted_job(given, file).artifact.module
    assert [norm.num_features for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)] == [16, 32]
    assert all(conv.bias is None for conv in module.modules() if isinstance(conv, nn.Conv2d))
    maps = []
    first = next(layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d))
    first.register_forward_hook(lambda norm, inputs, _: maps.append(inputs[0]))
    pixels = np.ascontiguousarray(given.task.split("calibration").images(given.artifact.input_spec, given.artifact.preprocessing))
    with torch.no_grad():
        module.eval()(Normalise.of(given.artifact.preprocessing)(torch.from_numpy(pixels)))
    seen = torch.cat(maps)
    torch.testing.assert_close(first.running_mean, seen.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.running_var, seen.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-3)


def channels_last(file: Path) -> Path:
    """The same network for images (N, H, W, C)."""
    model = onnx.load(str(exported(file)))
    taken = model.graph.input[0]
    nodes = [helper.make_node("Transpose", ["images"], [taken.name], perm=[0, 3, 1, 2]), *model.graph.node]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", SIDE, SIDE, 3]))
    onnx.save(model, str(file))
    return file


def test_a_file_with_the_channels_last(shapes: Path, tmp_path: Path) -> None:
    first, last = exported(tmp_path / "first.onnx"), channels_last(tmp_path / "last.onnx")
    jobs = [file_job(shapes, ModelSettings(str(file))) for file in (first, last)]
    artifact = converted_job(jobs[1], last).artifact
    images = np.ascontiguousarray(jobs[0].task.split("validation").images(artifact.input_spec, artifact.preprocessing))
    expected = load(jobs[0].artifact.files, "onnxruntime")(images)["logits"]
    for found in (load(jobs[1].artifact.files, "onnxruntime")(images), TorchPredictor(artifact.module, artifact.preprocessing)(images)):
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4 * np.abs(expected).max())
    assert (artifact.input_spec.channels, artifact.input_spec.height) == (3, SIDE)


def test_an_experiment_starts_from_the_file(shapes: Path, tmp_path: Path) -> None:
    file, out = exported(tmp_path / "net.onnx"), tmp_path / "experiment"
    done = invoke(
        [
            "experiment",
            str(shapes),
            "--model",
            str(file),
            "--vary",
            "label_smoothing=0,0.1",
            "--seeds",
            "1",
            "--epochs",
            "1",
            "--out",
            str(out),
        ]
    )
    assert done.exit_code == 0, done.output
    assert "refused" not in done.output


def test_saved_and_rebuilt_from_the_file(shapes: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "net.onnx", nn.Softmax(1))
    artifact = converted_job(file_job(shapes, ModelSettings(str(file))), file).artifact
    with torch.no_grad():
        next(artifact.module.parameters()).add_(1)
    save_artifact(artifact, tmp_path / "saved")
    images = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(load_artifact(tmp_path / "saved").module(images), artifact.module(images))
    exported(file, nn.Sigmoid())
    with pytest.raises(ModelError, match=r"net\.onnx has changed"):
        load_artifact(tmp_path / "saved")


def test_a_file_that_stays_a_file_keeps_its_reason(shapes: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "net.onnx")
    model = onnx.load(str(file))
    model.graph.node.append(helper.make_node("Hardmax", ["y"], ["largest"], "largest"))
    model.graph.node.append(helper.make_node("Add", ["y", "largest"], ["sums"], "sums"))
    model.graph.output[0].name = "sums"
    onnx.save(model, str(file))
    job = file_job(shapes, ModelSettings(str(file)))
    with pytest.raises(ModelError, match=r"operator Hardmax \(node largest; output sums\)"):
        converted_job(job, file)
    said = invoke(["optimize", str(shapes), "--model", str(file), "--epochs", "3", "--out", str(tmp_path / "run")])
    assert said.exit_code == 2
    assert "Hardmax" in said.output
    assert "cannot be trained" in said.output


def test_a_plan_is_applied_to_a_file(shapes: Path, tmp_path: Path) -> None:
    file, plan = exported(tmp_path / "net.onnx"), tmp_path / "plan.yaml"
    plan.write_text("- {name: channel_pruning, pruning_ratio: 0.5}\n- {name: distill, epochs: 1}\n", encoding="utf-8")
    done = invoke(
        ["compress", str(file), str(shapes), "--plan", str(plan), "--mean", "0.5", "--std", "0.25", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    small = load_artifact(tmp_path / "out")
    assert [m.out_channels for m in small.module.modules() if isinstance(m, nn.Conv2d)] == [8, 16]
    assert small.preprocessing.mean == (0.5,) * 3
    done = invoke(["compress", str(file), str(shapes), "--plan", str(plan), "--weights", str(file), "--out", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "--weights" in done.output


def test_weights_in_a_file_beside(shapes: Path, tmp_path: Path) -> None:
    file, whole = tmp_path / "net.onnx", exported(tmp_path / "whole.onnx")
    onnx.save(onnx.load(str(whole)), str(file), save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    data, out = tmp_path / "net.onnx.data", tmp_path / "out"
    plan = tmp_path / "plan.yaml"
    plan.write_text("- {name: to_onnx}\n", encoding="utf-8")
    done = invoke(["compress", str(file), str(shapes), "--plan", str(plan), "--out", str(out)])
    assert done.exit_code == 0, done.output
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    artifact = converted_job(file_job(shapes, ModelSettings(str(file))), file).artifact
    save_artifact(artifact, tmp_path / "saved")
    content = data.read_bytes()
    data.write_bytes(content[:100] + b"\1\2\3\4" + content[104:])
    with pytest.raises(ModelError, match=r"net\.onnx has changed"):
        load_artifact(tmp_path / "saved")
    data.unlink()
    for arguments in (["evaluate", str(file), str(shapes)], ["explain", str(file)], ["optimize", str(shapes), "--model", str(file)]):
        done = invoke([*arguments, *(["--out", str(tmp_path / "run")] if arguments[0] == "optimize" else [])])
        assert done.exit_code == 2
        assert "net.onnx.data" in done.output
    assert invoke(["verify", str(moved)]).exit_code == 0  # the bundle holds the weights


def test_the_file_that_a_saved_network_was_made_from_is_gone(shapes: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "net.onnx")
    save_artifact(converted_job(file_job(shapes, ModelSettings(str(file))), file).artifact, tmp_path / "saved")
    file.unlink()
    with pytest.raises(ModelError, match=r"net\.onnx is not there.*bring it back"):
        load_artifact(tmp_path / "saved")


def quantized(file: Path, shapes: Path) -> Path:
    """The network, trained a little, in INT8 by ONNX Runtime's quantizer."""
    job = file_job(shapes, ModelSettings(str(file)))
    split = job.task.split("calibration")
    pixels = np.ascontiguousarray(split.images(job.artifact.input_spec, job.artifact.preprocessing))
    images = Normalise.of(job.artifact.preprocessing)(torch.from_numpy(pixels)).numpy()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        batches = iter([{"x": image[None]} for image in images])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantize_static(str(file), str(file.with_name("int8.onnx")), Reader(), per_channel=True, weight_type=QuantType.QInt8)
    return file.with_name("int8.onnx")


def test_a_quantized_file_is_read_back_to_float(shapes: Path, tmp_path: Path) -> None:
    plain = exported(tmp_path / "net.onnx")
    file = quantized(plain, shapes)
    with collecting_notes() as notes:
        given = file_job(shapes, ModelSettings(str(file)))
    note = next(text for text in notes if "it is quantized" in text)
    assert "its weights are dequantized, and its activations are computed in float32" in note
    artifact = converted_job(given, file).artifact
    images = np.ascontiguousarray(given.task.split("validation").images(artifact.input_spec, artifact.preprocessing))
    found = TorchPredictor(artifact.module, artifact.preprocessing)(images)["logits"]
    expected = load(given.artifact.files, "onnxruntime")(images)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    exact = load(file_job(shapes, ModelSettings(str(plain))).artifact.files, "onnxruntime")(images)["logits"]
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    assert not any("Quantize" in node.op_type for node in onnx.load(str(given.artifact.files[0])).graph.node)


@pytest.mark.parametrize("size", ["16x24", 16])
def test_a_file_that_takes_several_sizes(shapes: Path, tmp_path: Path, size: int | str) -> None:
    file = exported(tmp_path / "net.onnx", sides=("h", "w"))
    given = file_job(shapes, ModelSettings(str(file), image_size=size))
    artifact = converted_job(given, file).artifact
    assert (artifact.input_spec.height, artifact.input_spec.width) == (16, 24 if size == "16x24" else 16)
    images = np.ascontiguousarray(given.task.split("validation").images(artifact.input_spec, artifact.preprocessing))
    found = TorchPredictor(artifact.module, artifact.preprocessing)(images)["logits"]
    expected = load(given.artifact.files, "onnxruntime")(images)["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    save_artifact(artifact, tmp_path / "saved")
    assert load_artifact(tmp_path / "saved").input_spec == artifact.input_spec


def test_sizes_that_a_file_does_not_take_are_named(shapes: Path, tmp_path: Path) -> None:
    file = exported(tmp_path / "net.onnx", sides=(None, "w"))
    assert file_job(shapes, ModelSettings(str(file), image_size="16x40")).artifact.input_spec.width == 40
    with pytest.raises(GoalError, match=r"24 x 40 pixels.*16 x any pixels"):
        file_job(shapes, ModelSettings(str(file), image_size="24x40"))


def test_a_network_from_a_file_is_explained_and_retrained(shapes: Path, tmp_path: Path) -> None:
    file, run, plan = exported(tmp_path / "net.onnx"), tmp_path / "run", tmp_path / "plan.yaml"
    plan.write_text("- {name: channel_pruning, pruning_ratio: 0.5}\n- {name: to_onnx}\n", encoding="utf-8")
    job = converted_job(file_job(shapes, ModelSettings(str(file))), file)
    save_artifact(job.artifact, run / "model", job.data.assignment)
    done = invoke(["compress", str(run / "model"), str(shapes), "--plan", str(plan), "--out", str(run / "bundle")])
    assert done.exit_code == 0, done.output
    for target in (file, run / "model", run / "bundle"):
        done = invoke(["explain", str(target)])
        assert done.exit_code == 0, done.output
        assert "Conv" in done.output
    more = write_shapes(tmp_path / "more", per_class=10, size=SIDE, channels=3, seed=5)
    arguments = ["retrain", str(run), str(shapes), "--add", str(more), "--epochs", "1"]
    done = invoke([*arguments, "--out", str(tmp_path / "retrained")])
    assert done.exit_code in (0, 1), done.output  # 1: it is not shown to be better
    again = load_artifact(tmp_path / "retrained" / "model").module
    assert [layer.out_channels for layer in again.modules() if isinstance(layer, nn.Conv2d)] == [16, 32]
    file.unlink()
    done = invoke([*arguments, "--out", str(tmp_path / "again")])
    assert done.exit_code == 2
    assert "net.onnx is not there" in done.output


def test_a_file_that_stayed_a_file_is_not_retrained(shapes: Path, tmp_path: Path) -> None:
    file, run = exported(tmp_path / "net.onnx"), tmp_path / "run"
    job = file_job(shapes, ModelSettings(str(file)))
    save_artifact(job.artifact, run / "work" / "original", job.data.assignment)
    write_bundle(
        job.artifact, job.task, run / "bundle", target=DeploymentTarget("onnxruntime"), measurements={}, assignment=job.data.assignment
    )
    done = invoke(["retrain", str(run), str(shapes), "--add", str(shapes), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "could not be converted to a network" in done.output
