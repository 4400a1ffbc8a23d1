"""Quantization that learns, on networks people use: it applies, exports and runs integer kernels. Untrained, with real batch statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from export_fakes import PREPROCESSING
from test_quantize_aware import TrainableTask
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Source
from planish.compression import Binarize, Int8, LearnedRounding, QuantizeAware
from planish.data.normalisation import Normalise
from planish.evaluation.torch_predictor import TorchPredictor
from planish.export import ToOnnx
from planish.export.runtimes.registry import executed_precisions, load
from planish.models.batch_norm import reestimate_batch_norm
from planish.models.storage import load_artifact, save_artifact

NETWORKS = ("resnet18", "mobilenet_v2", "shufflenet_v2_x1_0", "vgg16_bn", "convnext_tiny")
SPEC = InputSpec(3, 64, 64)


@pytest.fixture(scope="module")
def task() -> TrainableTask:
    return TrainableTask()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, task: TrainableTask) -> Artifact:
    torch.manual_seed(0)
    net: nn.Module = getattr(torchvision.models, request.param)(weights=None, num_classes=3).eval()
    pixels = torch.from_numpy(task.split("calibration").images(SPEC, PREPROCESSING))
    reestimate_batch_norm(net, [Normalise(PREPROCESSING.mean, PREPROCESSING.std)(pixels)])
    source = Source(f"torchvision:{request.param}", 3, 3)
    return Artifact("torch", SPEC, PREPROCESSING, task.class_names, Lineage(source), module=net)


@pytest.mark.slow
def test_int8_that_was_learned(network: Artifact, task: TrainableTask, tmp_path: Path) -> None:
    learned = QuantizeAware(epochs=1, batch_size=48, calibration_images=32).apply(network, task)
    images = task.split("validation").images(SPEC, PREPROCESSING)[:9]
    wanted = TorchPredictor(learned.module, PREPROCESSING)(images)["logits"]
    save_artifact(learned, tmp_path / "saved")
    again = load_artifact(tmp_path / "saved")
    np.testing.assert_array_equal(TorchPredictor(again.module, PREPROCESSING)(images)["logits"], wanted)
    exported, after_training = ToOnnx().apply(learned, task), Int8(calibration_images=32).apply(ToOnnx().apply(network, task), task)
    for runtime in ("onnxruntime", "openvino"):
        assert executed_precisions(exported.files, runtime) == executed_precisions(after_training.files, runtime)
        found = load(exported.files, runtime)(images)["logits"]
        assert np.median(np.abs(found - wanted)) < 0.25 * np.abs(wanted).max()
    assert exported.size_bytes < 1.05 * after_training.size_bytes


@pytest.mark.slow
def test_four_bits_with_learned_rounding(network: Artifact, task: TrainableTask) -> None:
    rounded = LearnedRounding(4, "block", calibration_images=16, steps=3, batch_size=8).apply(network, task)
    assert rounded.size_bytes < 0.3 * network.size_bytes
    images = task.split("validation").images(SPEC, PREPROCESSING)[:9]
    wanted = TorchPredictor(rounded.module, PREPROCESSING)(images)["logits"]
    found = load(ToOnnx().apply(rounded, task).files, "onnxruntime")(images)["logits"]
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
def test_one_and_two_bits(network: Artifact, task: TrainableTask) -> None:
    for technique in (Binarize("ternary", epochs=1, batch_size=48), Binarize("binary", "binary", epochs=1, batch_size=48)):
        after = technique.apply(network, task)
        assert after.size_bytes < 0.3 * network.size_bytes
        ToOnnx().apply(after, task)
