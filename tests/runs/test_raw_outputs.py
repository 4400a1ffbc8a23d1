"""Networks of any kind on images without labels, as ONNX files, as factories and as modules: their outputs are what is compared."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from foreign_networks import FOREIGN, OUTPUTS, made
from torch import nn

import planish
from planish.errors import ModelError, PlanishError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import load
from planish.files.trust import trust
from planish.models.storage import load_artifact, save_artifact
from planish.plan import Plan
from planish.runs.networks.answers import answered
from planish.runs.networks.raw_outputs import outputs_job
from planish.runs.store import Store
from planish.settings import ModelSettings
from planish.testing import write_shapes
from planish.training.prepare import Job

SIDE = 64
HOW = {"mean": [0.5], "std": [0.25]}
FACTORY = """
import sys
sys.path.insert(0, {folder!r})
from foreign_networks import made
def make(channels):
    return made({kind!r})
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(sorted(write_shapes(folder / "shapes", per_class=15, size=SIDE, channels=3).rglob("*.png"))):
        file.rename(folder / f"{number}.png")
    for empty in ("cross", "disc", "square", ""):
        (folder / "shapes" / empty).rmdir()
    return folder


def exported(network: nn.Module, file: Path) -> Path:
    torch.onnx.export(
        network,
        (torch.randn(2, 3, SIDE, SIDE),),
        str(file),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["x"],
        verbose=False,
    )
    return file


def with_answers(job: Job, folder: Path) -> Job:
    folder.mkdir(exist_ok=True)
    store = Store(folder)
    found = answered(job, folder, store, 1.0)
    store.close()
    return found


@pytest.mark.parametrize("kind", FOREIGN)
def test_targets_are_the_outputs_of_the_file(photos: Path, tmp_path: Path, kind: str) -> None:
    file = exported(made(kind), tmp_path / "net.onnx")
    job = with_answers(outputs_job(photos, ModelSettings(str(file), **HOW)), tmp_path / "run")  # type: ignore[arg-type]
    assert [job.artifact.input_spec.height, job.artifact.input_spec.width] == [SIDE, SIDE]
    split = job.task.split("test")
    pixels = np.array(split.images(job.artifact.input_spec, job.artifact.preprocessing))
    images = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": images})
    assert len(job.task.class_names) == len(expected) == len(OUTPUTS[kind])
    for name, values in zip(job.task.class_names, expected, strict=True):
        found = np.stack([split.targets[i][name] for i in range(len(split))])
        np.testing.assert_allclose(found, values, atol=1e-4 * np.abs(values).max())
    outputs = TorchPredictor(job.artifact.module, job.artifact.preprocessing)(pixels)
    assert job.task.metrics(outputs, split.targets)["explained_variance"].value == pytest.approx(100, abs=1e-3)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_network_is_pruned_distilled_quantized_exported_and_reopened(photos: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "net.py").write_text(FACTORY.format(folder=str(Path(__file__).parents[1] / "helpers"), kind=kind))
    trust(tmp_path / "net.py")
    job = with_answers(outputs_job(photos, ModelSettings(f"{tmp_path / 'net.py'}:make", **HOW)), tmp_path / "run")  # type: ignore[arg-type]
    pixels = np.array(job.task.split("test").images(job.artifact.input_spec, job.artifact.preprocessing))
    targets = job.task.split("test").targets
    assert {name: values.shape[1:] for name, values in targets.outputs.items()} == OUTPUTS[kind]
    steps = [{"name": "channel_pruning", "pruning_ratio": 0.3}, {"name": "distill", "epochs": 2, "learning_rate": 0.001}]
    small = Plan.from_dicts(steps).apply(replace(job.artifact, original=job.artifact), job.task)
    assert sum(p.numel() for p in small.module.parameters()) < 0.85 * sum(p.numel() for p in job.artifact.module.parameters())
    save_artifact(small, tmp_path / "small")
    predicted = TorchPredictor(small.module, small.preprocessing)(pixels)
    again = load_artifact(tmp_path / "small")
    for name, values in TorchPredictor(again.module, again.preprocessing)(pixels).items():
        np.testing.assert_allclose(values, predicted[name], atol=1e-5)
    quantized = Plan.from_dicts([{"name": "to_onnx"}, {"name": "int8"}]).apply(job.artifact, job.task)
    found = load(quantized.files, "onnxruntime")(pixels)
    assert {name: values.shape[1:] for name, values in found.items()} == OUTPUTS[kind]
    for name, measured in (job.task.per_class(found, targets) or job.task.metrics(found, targets)).items():
        assert measured.value > (20 if kind == "anchor_free" else 80), name  # its random boxes hardly depend on the image


def test_a_module_is_not_changed(photos: Path, tmp_path: Path) -> None:
    network = made("embedding")
    before = copy.deepcopy(network.state_dict())
    job = outputs_job(photos, ModelSettings(network, **HOW))  # type: ignore[arg-type]
    assert job.task.class_names == ("output_0", "output_1")
    assert not hasattr(network, "decode")
    for name, values in network.state_dict().items():
        torch.testing.assert_close(values, before[name])


class Unusual(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> object:
        maps = self.conv(x)
        return {"text": (maps, "text"), "sum": maps.sum(), "labels": maps.argmax(1), "nothing": ()}[self.kind]


@pytest.mark.parametrize("kind", ["text", "sum", "labels", "nothing"])
def test_outputs_that_cannot_be_compared_are_refused(photos: Path, kind: str) -> None:
    with pytest.raises(ModelError, match=r"output|tensor"):
        outputs_job(photos, ModelSettings(Unusual(kind), **HOW))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings("resnet20", **HOW), "classifier"),  # type: ignore[arg-type]
        (ModelSettings(nn.Conv2d(3, 4, 3)), "--mean"),
        (ModelSettings(nn.Conv2d(3, 4, 3), metric="accuracy", **HOW), "explained variance"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_do_not_go_with_raw_outputs(photos: Path, settings: ModelSettings, message: str) -> None:
    with pytest.raises(PlanishError, match=message):
        outputs_job(photos, settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_any_kind_is_optimized(photos: Path, tmp_path: Path, kind: str) -> None:
    file, out = exported(made(kind), tmp_path / "net.onnx"), tmp_path / "run"
    result = planish.optimize(photos, model=str(file), task="outputs", mean=0.5, std=0.25, max_change=20.0, budget="60s", out=out)
    assert result.metric == "explained_variance"
    assert result.baseline.measurements["explained_variance"].value > 99.9
    assert "original's own outputs" in (out / "report.html").read_text()
    assert planish.verify(out, latency=False).ok
