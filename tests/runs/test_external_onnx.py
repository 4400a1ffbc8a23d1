"""ONNX files that others wrote: fed pixels they say what the network said, whatever way they were exported; what cannot be is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from cli_runner import invoke
from onnx import TensorProto, helper
from torch import nn

from planish.artifact import Artifact
from planish.compression import Int8, Resolution, Simplify
from planish.data.normalisation import Normalise
from planish.devices.kernels import onnxruntime_kernels
from planish.errors import DataError, GoalError, ModelError, TechniqueError
from planish.export import ToOnnx, ToOpenVino
from planish.export.bundle.verify import verify
from planish.export.runtimes.registry import load
from planish.plan import Plan
from planish.runs.external_onnx import channel_values, file_job
from planish.search.result import Result
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job, prepare_job

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 32


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", per_class=40, size=SIDE, channels=3)


@pytest.fixture(autouse=True)
def quiet_exporter() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).eval()


def export(network: nn.Module, file: Path, **options: Any) -> Path:
    torch.onnx.export(network, (torch.randn(1, 3, SIDE, SIDE),), str(file), verbose=False, **options)
    return file


DYNAMIC = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
OLD = {
    "dynamo": False, "opset_version": 11, "input_names": ["images"], "output_names": ["logits"],
    "dynamic_axes": {"images": {0: "n", 2: "h", 3: "w"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def any_batch(resnet: nn.Module, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return file_job(shapes, ModelSettings(str(export(resnet, tmp_path_factory.mktemp("any") / "net.onnx", **DYNAMIC))))


def says_what(network: nn.Module, job: Job, mean: tuple[float, ...] = IMAGENET[0], std: tuple[float, ...] = IMAGENET[1]) -> None:
    """Compare the job's file, alone and in a batch, with the network in PyTorch on the same pixels."""
    images = np.array(job.task.split("validation").images(job.artifact.input_spec, job.artifact.preprocessing)[:5])
    with torch.no_grad():
        expected = network(Normalise(mean, std)(torch.from_numpy(images))).numpy()
    for count in (1, 5):
        found = load(job.artifact.files, "onnxruntime")(images[:count])["logits"]
        np.testing.assert_allclose(found, expected[:count], atol=1e-4 * np.abs(expected).max())


def test_a_resnet_18_as_pytorch_exports_it(resnet: nn.Module, shapes: Path, tmp_path: Path) -> None:
    job = file_job(shapes, ModelSettings(str(export(resnet, tmp_path / "net.onnx"))))  # for one image a call
    says_what(resnet, job)
    artifact = job.artifact
    assert (artifact.format, artifact.class_names, artifact.preprocessing.resize) == ("onnx", ("cross", "disc", "square"), "squash")
    quantized = Plan(Simplify(), Int8()).apply(artifact, job.task)
    kernels = onnxruntime_kernels(quantized.files[0])
    assert (len(kernels["int8"]), len(kernels["float"])) == (21, 0), "20 convolutions and the linear layer"
    assert quantized.size_bytes < artifact.size_bytes / 3.5


def test_one_that_takes_any_batch(resnet: nn.Module, any_batch: Job) -> None:
    says_what(resnet, any_batch)
    ToOpenVino().apply(any_batch.artifact, any_batch.task)  # compares the outputs itself


def test_an_old_file_of_any_size_with_a_softmax(resnet: nn.Module, shapes: Path, tmp_path: Path) -> None:
    file = export(nn.Sequential(resnet, nn.Softmax(1)).eval(), tmp_path / "old.onnx", **OLD)
    job = file_job(shapes, ModelSettings(str(file), image_size=SIDE, mean=[0.5], std=[0.2, 0.3, 0.4]))
    images = np.array(job.task.split("validation").images(job.artifact.input_spec, job.artifact.preprocessing)[:4])
    with torch.no_grad():
        expected = resnet(Normalise((0.5,) * 3, (0.2, 0.3, 0.4))(torch.from_numpy(images))).softmax(1).numpy()
    logits = load(job.artifact.files, "onnxruntime")(images)["logits"]
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1).numpy(), expected, atol=1e-4)
    assert all(node.op_type != "Softmax" for node in onnx.load(str(job.artifact.files[0])).graph.node)
    Int8().apply(job.artifact, job.task)


def test_a_network_of_timm(shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_small_050", num_classes=3).eval()
    job = file_job(shapes, ModelSettings(str(export(network, tmp_path / "net.onnx")), std=[1.0], mean=[0.0]))
    says_what(network, job, (0.0,) * 3, (1.0,) * 3)


class Viewed(nn.Module):
    """Counts on a batch of one; what comes after cannot be freed from that by its reshape alone."""

    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.conv, self.last, self.mixes = nn.Conv2d(3, 4, 5, 4), nn.Linear(196, 3), mixes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = self.last(x.reshape(int(x.shape[0]), -1))
        return x - x.mean(0, keepdim=True) / 2 if self.mixes else x


def test_a_fixed_batch_is_freed_or_refused(shapes: Path, tmp_path: Path) -> None:
    options = {"dynamo": False, "opset_version": 13}
    network = Viewed(False).eval()
    says_what(network, file_job(shapes, ModelSettings(str(export(network, tmp_path / "net.onnx", **options)))))
    with pytest.raises(ModelError, match=r"one by one.*made for 1"):
        file_job(shapes, ModelSettings(str(export(Viewed(True).eval(), tmp_path / "mixes.onnx", **options))))


def test_smaller_images(resnet: nn.Module, any_batch: Job, shapes: Path, tmp_path: Path) -> None:
    smaller = Resolution(scale=0.75).apply(any_batch.artifact, any_batch.task)
    assert (smaller.input_spec.height, smaller.input_spec.width) == (24, 24)
    says_what(resnet, dataclasses.replace(any_batch, artifact=smaller))
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, 3)).eval()
    fixed = file_job(shapes, ModelSettings(str(export(flat, tmp_path / "flat.onnx"))))
    says_what(flat, fixed)
    with pytest.raises(TechniqueError, match="24 x 24"):
        Resolution(scale=0.75).apply(fixed.artifact, fixed.task)


def test_a_file_of_ours_says_itself_how_it_is_fed(shapes: Path, tmp_path: Path) -> None:
    ours = prepare_job(shapes, ModelSettings("resnet8x0.5"))
    exported: Artifact = ToOnnx().apply(ours.artifact, ours.task)
    job = file_job(shapes, ModelSettings(str(exported.files[0])))
    assert dataclasses.replace(job.artifact, original=None) == dataclasses.replace(exported, original=None)
    with pytest.raises(GoalError, match="says itself"):
        file_job(shapes, ModelSettings(str(exported.files[0]), mean=[0.5]))
    with pytest.raises(ModelError, match="quantized already"):
        file_job(shapes, ModelSettings(str(Int8().apply(exported, ours.task).files[0])))
    other = write_shapes(tmp_path / "other", per_class=20, channels=3)
    (other / "cross").rename(other / "zebra")
    with pytest.raises(DataError, match="zebra"):
        file_job(other, ModelSettings(str(exported.files[0])))


def written(file: Path, shape: list[Any], kind: int = TensorProto.FLOAT, outputs: int = 3) -> Path:
    """The mean of each channel, times a matrix."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, outputs], np.arange(3.0 * outputs))
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["f"], ["p"]),
        helper.make_node("Flatten", ["p"], ["v"]),
        helper.make_node("MatMul", ["v", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", *ends, [weights]), ir_version=10, opset_imports=[helper.make_opsetid("", 17)]),
        str(file),
    )
    return file


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shape": ["N", 8, 8, 4]}, r"\(N, C, H, W\) or \(N, H, W, C\)"),
        ({"shape": ["N", 3, 8, 8], "kind": TensorProto.INT32}, "int32"),
        ({"shape": ["N", 3, 8]}, "float tensor of images"),
        ({"shape": ["N", 3, 8, 8], "outputs": 4}, "the data has 3 classes"),
    ],
)
def test_what_is_no_classifier_of_these_images_is_refused(shapes: Path, tmp_path: Path, options: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        file_job(shapes, ModelSettings(str(written(tmp_path / "a.onnx", **options))))


def test_what_cannot_be_said_of_a_file(shapes: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.onnx", ["N", 3, 8, 8])
    for wrong in ({"mean": [0.1, 0.2]}, {"std": [0.0]}, {"image_size": 16}):
        with pytest.raises(GoalError):
            file_job(shapes, ModelSettings(str(file), **wrong))  # type: ignore[arg-type]
    (tmp_path / "b.onnx").write_bytes(b"\x00nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        file_job(shapes, ModelSettings(str(tmp_path / "b.onnx")))


def test_a_file_that_does_not_know_the_classes_is_not_optimized(shapes: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.onnx", ["N", 3, 16, 16])
    said = invoke(["optimize", str(shapes), "--model", str(file), "--out", str(tmp_path / "run")])
    assert said.exit_code == 2
    assert "hardly better than guessing" in said.output
    assert "--mean, --std and --resize" in said.output
    said = invoke(["optimize", str(shapes), "--model", str(file), "--teachers", "2"])
    assert said.exit_code == 2
    assert "cannot be trained" in said.output


@pytest.mark.slow
def test_from_a_file_to_a_bundle(shapes: Path, tmp_path: Path) -> None:
    """The whole command on a network that was trained and exported without Planish."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    data = write_shapes(tmp_path / "shapes", per_class=150, size=SIDE, channels=3)
    job = prepare_job(data, ModelSettings("resnet8", image_size=SIDE))
    train = job.task.split("train")
    pixels = torch.from_numpy(np.array(train.images(job.artifact.input_spec, job.artifact.preprocessing)))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(300):
        chosen = torch.randint(0, len(pixels), (32,))
        loss = nn.functional.cross_entropy(network(Normalise(*IMAGENET)(pixels[chosen])), torch.from_numpy(train.targets)[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    file = export(network.eval(), tmp_path / "net.onnx", **DYNAMIC)
    run = tmp_path / "run"
    done = invoke(["optimize", str(data), "--model", str(file), "--max-drop", "5", "--budget", "2m", "--out", str(run)])
    assert done.exit_code == 0, done.output
    result = Result.load(run / "result.json")
    assert any("is a network of torch layers with the same outputs" in text for text in result.notes)
    assert any("change it with --mean, --std, --resize" in text for text in result.notes)
    assert {"onnxruntime", "openvino"} <= set(result.baselines)  # and OpenVINO's default precision, where that is another
    plans = json.dumps([candidate.plan for candidate in result.candidates])
    assert "pruning" in plans
    assert "distill" in plans
    assert verify(run / "bundle").ok
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "values"),
    [("mean", [123.675, 116.28, 103.53]), ("mean", [float("nan")]), ("std", [58.395, 57.12, 57.375]), ("std", [0.2, float("nan"), 0.2])],
)
def test_a_normalisation_on_the_scale_to_255_is_refused(name: Literal["mean", "std"], values: list[float]) -> None:
    with pytest.raises(GoalError, match="on the scale 0 to 1"):
        channel_values(name, values, 3)
    assert channel_values("std", [1 / 255], 3) == (1 / 255,) * 3, "of a network that takes pixels from 0 to 255"
