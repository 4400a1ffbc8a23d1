"""Forged files are refused by the check of every exporter, and files that only round are not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask
from torch import nn
from torchvision import models

from planish.artifact import Artifact, InputSpec, Lineage, Source
from planish.compression import HalfPrecision, Int8, QuantizeAware
from planish.data.normalisation import Normalise
from planish.errors import ExportError
from planish.export import ToOnnx, ToOpenVino, ToTensorRt, ToTorchExport, tensorrt_engine
from planish.export.checks import file_checks as checks
from planish.export.checks.agreement import decoded_difference
from planish.export.checks.file_checks import check_outputs, file_limits, float_limits, rounded_limits, torch_outputs
from planish.export.checks.rounding import jittered, rounded
from planish.export.checks.similarity import agreement, likeness
from planish.export.runtimes.registry import load

FORGERIES: dict[str, Callable[[Any], Any]] = {
    "zeros": np.zeros_like,
    "halved": lambda values: values / 2,
    "doubled": lambda values: values * 2,
    "other images": lambda values: np.roll(values, 1, axis=0),
    "other classes": lambda values: np.roll(values, 1, axis=1),
    "one for all": lambda values: np.repeat(values[:1], len(values), axis=0),
}


class Forged:
    """A file that computes something else."""

    def __init__(self, predictor: Any, forge: Callable[[Any], Any], alone: bool = False) -> None:
        self.predictor, self.forge, self.alone = predictor, forge, alone

    def __call__(self, images: Any) -> Any:
        found = self.predictor(images)
        return found if self.alone and len(images) > 1 else {name: self.forge(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def makers(network: Artifact, onnx_artifact: Artifact, int8_artifact: Artifact, task: FakeTask) -> dict[str, Any]:
    half = HalfPrecision("fp16").apply(onnx_artifact, task)
    learned = QuantizeAware(epochs=0, calibration_images=32).apply(network, task)
    return {
        "onnx": (ToOnnx(), network), "onnx int8": (ToOnnx(), learned), "torch": (ToTorchExport(), network),
        "openvino": (ToOpenVino(), onnx_artifact), "openvino int8": (ToOpenVino(), int8_artifact), "openvino fp16": (ToOpenVino(), half),
    }  # fmt: skip


@pytest.mark.parametrize("maker", ["onnx", "onnx int8", "torch", "openvino", "openvino int8", "openvino fp16"])
def test_no_exporter_lets_a_forged_file_pass(makers: dict[str, Any], maker: str, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, artifact = makers[maker]
    seen: list[Any] = []

    def watched(*arguments: Any) -> None:
        seen.append(arguments)
        check_outputs(*arguments)

    monkeypatch.setattr(import_module(type(exporter).__module__), "check_outputs", watched)
    exporter.apply(artifact, task)  # as it is
    arguments = seen[-1]
    for name, forge in FORGERIES.items():
        for alone in (False, True):
            if alone and name in ("other images", "one for all"):
                continue
            monkeypatch.setattr(checks, "load", lambda *a, f=forge, s=alone, **k: Forged(load(*a, **k), f, s))
            with pytest.raises(ExportError):
                check_outputs(*arguments)


def test_tensorrts_engine_is_held_against_the_same_limits(int8_artifact: Artifact, task: FakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = MagicMock()
    fake.Builder.return_value.build_serialized_network.return_value = b"engine"
    fake.Builder.return_value.create_builder_config.return_value.add_optimization_profile.return_value = 0
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(tensorrt_engine, "find", lambda name: None)
    predictor = load(int8_artifact.files, "onnxruntime")
    monkeypatch.setattr(checks, "load", lambda *_, **__: predictor)
    ToTensorRt().apply(int8_artifact, task)
    for forge in FORGERIES.values():
        monkeypatch.setattr(checks, "load", lambda *_, f=forge, **__: Forged(predictor, f))
        with pytest.raises(ExportError):
            ToTensorRt().apply(int8_artifact, task)


def colours(count: int = 16, size: int = 64) -> Any:
    """Images whose large patches differ in colour."""
    patches = np.random.default_rng(0).integers(0, 256, (count, size // 16, size // 16, 3))
    return np.kron(patches, np.ones((1, 16, 16, 1))).astype(np.uint8)


def run(net: nn.Module, images: Any) -> dict[str, Any]:
    with torch.no_grad():
        return {"logits": net(Normalise.of(PREPROCESSING)(torch.from_numpy(np.ascontiguousarray(images)))).numpy()}


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v2"])
def test_untrained_networks_whose_logits_hardly_differ_are_judged_by_what_does(name: str) -> None:
    torch.manual_seed(0)
    net, images = models.get_model(name, num_classes=10).eval(), colours()
    expected = run(net, images)
    limits = rounded_limits(expected, run(rounded(net), images), simulated=True)
    coarse = rounded(net)  # another way of rounding: one scale per layer
    with torch.no_grad():
        for layer in coarse.modules():
            if isinstance(layer, nn.Conv2d):
                scale = layer.weight.abs().max() / 127
                layer.weight.copy_((layer.weight / scale).round() * scale)
    assert list(checks._faults(expected, run(coarse, images), limits)) == []
    with torch.no_grad():
        raw = {"logits": net(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()}
    wrong = {kind: {"logits": forge(expected["logits"])} for kind, forge in FORGERIES.items()}
    for kind, found in (wrong | {"bgr": run(net, images[..., ::-1]), "not normalised": raw}).items():
        assert list(checks._faults(expected, found, limits)), kind


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_int8_of_common_networks_passes_and_wrong_preprocessing_does_not(name: str) -> None:
    class Coloured(FakeTask):
        class Split:
            def __len__(self) -> int:
                return 48

            def images(self, *_: Any) -> Any:
                return colours(48, 96)

        def split(self, name: str) -> Any:
            return self.Split()

    torch.manual_seed(0)
    task, net = Coloured(), models.get_model(name, num_classes=10).eval()
    spec, names = InputSpec(3, 96, 96), tuple(map(str, range(10)))
    artifact = Artifact("torch", spec, PREPROCESSING, names, Lineage(Source("module", 10, 3)), module=net)
    quantized = Int8(calibration_images=32).apply(ToOnnx().apply(artifact, task), task)
    ToOpenVino().apply(quantized, task)
    images = colours(48, 96)[::3]
    expected, limits = torch_outputs(artifact, images, least=1e-3, int8=True)
    check_outputs(quantized.files, "onnxruntime", images, expected, limits, "PyTorch")
    for wrong in (replace(PREPROCESSING, mean=(0, 0, 0), std=(1 / 255,) * 3), replace(PREPROCESSING, mean=(0, 0, 0), std=(1, 1, 1))):
        spoilt = replace(artifact, preprocessing=wrong)
        with pytest.raises(ExportError, match=r"correlation|signal-to-noise"):
            check_outputs(quantized.files, "onnxruntime", images, torch_outputs(spoilt, images, least=1e-3)[0], limits, "PyTorch")


def test_a_network_that_amplifies_rounding_may_be_further_off_and_one_that_does_not_may_not() -> None:
    rng = np.random.default_rng(0)
    expected = {"logits": rng.normal(size=(16, 10)) + 5}
    noisy = {"logits": expected["logits"] + rng.normal(size=(16, 10)) * 0.7}
    strict, wide = rounded_limits(expected, expected), rounded_limits(expected, noisy)
    other = {"logits": expected["logits"] + rng.normal(size=(16, 10)) * 0.7}
    (what, rule), *_ = checks._faults(expected, other, strict)
    assert "correlation" in what
    assert "0.92" in rule
    assert list(checks._faults(expected, other, wide)) == []
    for kind in ("zeros", "halved"):
        assert list(checks._faults(expected, {"logits": FORGERIES[kind](expected["logits"])}, wide)), kind


def test_likeness_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    expected, found = rng.normal(size=(9, 4)) + 3, rng.normal(size=(9, 4)) + 3
    one = likeness(expected, found)
    ours, theirs = expected - expected.mean(0), found - found.mean(0)
    assert one.correlation == pytest.approx(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
    assert one.scale == pytest.approx(theirs.std() / ours.std())
    assert one.snr_db == pytest.approx(10 * np.log10((expected**2).mean() / ((found - expected) ** 2).mean()))
    assert likeness(expected, expected * 0.5).snr_db == pytest.approx(6.0206, abs=1e-3)
    same = np.repeat(expected[:1], 9, axis=0)
    assert likeness(same, same).correlation is None, "images that do not differ have nothing to compare"
    assert not likeness(expected, np.full((9, 4), np.nan)).snr_db > 0


def test_only_clear_answers_must_be_the_same() -> None:
    expected = np.array([[10.0, 0], [0, 10], [5.0, 5.01]])
    assert agreement(expected, np.array([[9.0, 0], [0, 9], [5.01, 5]]), 0.01) == 1.0
    assert agreement(expected, np.array([[9.0, 0], [9, 0], [5.01, 5]]), 0.01) == 0.5
    assert agreement(expected[:, :1], expected[:, :1], 0.01) is None


def test_detections_and_label_maps_of_forged_files_are_unlike() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (4, 6, 2))
    boxes = np.concatenate([corners, corners + 0.3], axis=2)
    expected = {"boxes": boxes, "scores": np.tile(np.linspace(0.95, 0.4, 6), (4, 1)), "labels": rng.integers(0, 3, (4, 6))}
    honest = expected | {"boxes": boxes + rng.normal(0, 0.01, boxes.shape), "scores": expected["scores"] - 0.03}
    assert decoded_difference(expected, honest)["scores"] < 0.25
    wrong = {
        "zeros": {name: np.zeros_like(values) for name, values in expected.items()},
        "halved": expected | {"scores": expected["scores"] / 2},
        "others": {name: np.roll(values, 1, axis=0) for name, values in expected.items()},
        "labels": expected | {"labels": (expected["labels"] + 1) % 3},
    }
    for kind, found in wrong.items():
        assert decoded_difference(expected, found)["scores"] > 0.5, kind
    maps = {"classes": (rng.random((4, 20, 20)) < 0.1).astype(int), "confidence": np.full((4, 20, 20), 0.9)}
    few = maps | {"classes": np.where(rng.random((4, 20, 20)) < 0.02, 1 - maps["classes"], maps["classes"])}
    assert decoded_difference(maps, few)["classes"] < 0.3
    background = {"classes": np.zeros_like(maps["classes"]), "confidence": np.full((4, 20, 20), 0.5)}
    assert decoded_difference(maps, background)["classes"] == pytest.approx(1), "nine tenths of the pixels are right by chance"
    assert decoded_difference(maps, background)["confidence"] > 0.1
    assert decoded_difference(maps, {name: np.roll(values, 1, axis=0) for name, values in maps.items()})["classes"] > 0.8


def test_a_file_made_of_a_file_has_the_limits_of_its_own_noise(int8_artifact: Artifact, task: FakeTask) -> None:
    images = task.split("validation").images(SPEC, PREPROCESSING)[:16]
    predictor = load(int8_artifact.files, "onnxruntime")
    expected = predictor(images)
    limits = file_limits(predictor, images, expected, "int8")
    assert limits.bounds["logits"].noise < 0.5
    assert np.abs(jittered(images).astype(int) - images).max() == 1
    check_outputs(int8_artifact.files, "onnxruntime", images, expected, limits, "itself")
    assert float_limits(expected).bounds["logits"].noise < limits.bounds["logits"].noise
