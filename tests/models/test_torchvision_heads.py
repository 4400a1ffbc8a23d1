"""torchvision's detectors and segmenters on real scenes: they learn, and their files say what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planish.evaluation.torch_predictor import TorchPredictor
from planish.export.runtimes.registry import load
from planish.models import create
from planish.models.detection import two_stage
from planish.models.heads import torchvision as torchvision_heads
from planish.plan import Plan
from planish.settings import ModelSettings
from planish.training.prepare import prepare_job

NETWORKS = {
    "ssdlite320_mobilenet_v3_large": ("detection", 320),
    "ssd300_vgg16": ("detection", 300),
    "fcos_resnet50_fpn": ("detection", 128),
    "retinanet_resnet50_fpn": ("detection", 128),
    "fasterrcnn_resnet50_fpn": ("detection", 128),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("detection", 128),
    "maskrcnn_resnet50_fpn": ("instance", 128),
    "deeplabv3_mobilenet_v3_large": ("semantic", 128),
    "lraspp_mobilenet_v3_large": ("semantic", 128),
    "fcn_resnet50": ("semantic", 128),
}
COMPRESSED = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "deeplabv3_mobilenet_v3_large")


def learned(name: str, steps: int = 4) -> tuple[Any, Any, list[float]]:
    """A few steps on four images."""
    task, size = NETWORKS[name]
    torch.manual_seed(0)
    job = prepare_job("fashion-scenes-60", ModelSettings(name, task=task, image_size=size))
    network, split, spec = job.artifact.module.train(), job.task.split("train"), job.artifact.input_spec
    targets = job.task.batch_targets(split.targets, np.arange(4), spec)
    pixels = np.array(split.images(spec, job.artifact.preprocessing)[:4])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.25
    optimizer = torch.optim.SGD(network.parameters(), 2e-3, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = job.task.loss(network, network(images), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    return job, replace(job.artifact, module=network.eval()), losses


def test_every_network_is_known_by_its_task() -> None:
    for name, (task, _) in NETWORKS.items():
        assert name in torchvision_heads.names(task)
    assert not set(torchvision_heads.names("instance")) & set(torchvision_heads.names("detection"))


def test_proposals_that_were_suppressed_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They fill the places of those that stay up; their scores are all 0, and which of equals comes first is up to each runtime."""
    torch.manual_seed(0)
    network: Any = torchvision_heads.build("fasterrcnn_mobilenet_v3_large_320_fpn", 3, 3, 100).eval()
    plain, seen = two_stage.keep_best, list[torch.Tensor]()

    def half_stays(boxes: torch.Tensor, scores: torch.Tensor, kept: int) -> tuple[torch.Tensor, ...]:
        seen.append(scores)
        boxes, scores, labels = plain(boxes, scores, kept)
        if len(seen) == 1:
            scores[:, scores.shape[1] // 2 :] = 0
            scores[:, : scores.shape[1] // 2].clamp_(min=0.1)
        return boxes, scores, labels

    monkeypatch.setattr(two_stage, "keep_best", half_stays)
    with torch.no_grad():
        network.decode(network(torch.randn(2, 3, 128, 128)))
    _, found = seen
    half = found.shape[1] // 2
    assert (found[:, :half].amax(2) > 0).all()
    assert (found[:, half:] == 0).all()


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn"])
def test_regions_are_pooled_as_torchvision_does(name: str) -> None:
    """The first two maps of MobileNet's pyramid both have stride 32; those of ResNet 4 and 8."""
    torch.manual_seed(0)
    network: Any = torchvision_heads.build(name, 3, 3, 20).eval()
    with torch.no_grad():
        maps, images, size = network._maps(network(torch.randn(1, 3, 256, 192)))
        assert images.image_sizes == [(256, 192)]
        boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.9, 0.9]]]) * size
        expected = network.model.roi_heads.box_roi_pool(maps, [boxes[0]], images.image_sizes)
        torch.testing.assert_close(network._pooled(list(maps.values()), boxes, 7), expected)


def test_ssd_takes_grey_images() -> None:
    network = torchvision_heads.build("ssd300_vgg16", 3, 1, 20).eval()
    assert network(torch.zeros(1, 1, 300, 300))["level_5"].shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [("ssd300_vgg16", 0.48235, 1 / 255), ("ssdlite320_mobilenet_v3_large", 0.5, 0.5), ("fasterrcnn_mobilenet_v3_large_fpn", 0.485, 0.229)],
)
def test_weights_bring_the_normalisation_that_they_expect(tmp_path: Path, name: str, mean: float, std: float) -> None:
    network: Any = torchvision_heads.build(name, 3, 3, 100)
    torch.save(network.model.state_dict(), tmp_path / "weights.pth")
    created = create(name, num_classes=3, channels=3, image_size=320, task="detection", weights=tmp_path / "weights.pth")
    assert created.mean is not None
    assert created.std is not None
    assert (created.mean[0], created.std[0]) == (mean, std)


def test_the_loss_of_two_images_is_computed_in_eval_mode_as_well() -> None:
    network = torchvision_heads.build("fasterrcnn_mobilenet_v3_large_320_fpn", 3, 3, 20).eval()
    targets = [{"boxes": torch.tensor([[0.1, 0.1, 0.5, 0.5]]), "labels": torch.tensor([1])}] * 2
    assert network.loss(network(torch.randn(2, 3, 128, 128)), targets).isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_learns_and_its_file_agrees(name: str) -> None:
    job, artifact, losses = learned(name)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    file = Plan.from_dicts([{"name": "to_onnx"}]).apply(artifact, job.task)
    images = np.ascontiguousarray(job.task.split("test").images(artifact.input_spec, artifact.preprocessing)[:5])
    expected, found = TorchPredictor(artifact.module, artifact.preprocessing)(images), load(file.files, "onnxruntime")(images)
    assert list(found) == list(expected)
    # boxes of networks that know nothing are as good as one another: which of the last ones stay may hang on the last bit
    sure = "scores" if "scores" in expected else "confidence"
    np.testing.assert_allclose(found[sure][:, :50], expected[sure][:, :50], atol=1e-3)
    if "classes" in expected:
        assert (found["classes"] == expected["classes"]).mean() > 0.999
    else:
        assert expected["boxes"].shape == (5, 100, 4)
    alone = load(file.files, "onnxruntime")(images[:1])
    np.testing.assert_allclose(alone[sure][:, :50], found[sure][:1, :50], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPRESSED)
def test_it_is_pruned_and_quantized(name: str) -> None:
    job, artifact, _ = learned(name, steps=1)
    steps = [{"name": "channel_pruning", "pruning_ratio": 0.3}, {"name": "to_onnx"}, {"name": "int8", "calibration_images": 16}]
    file = Plan.from_dicts(steps).apply(artifact, job.task)
    assert file.size_bytes < 0.3 * artifact.size_bytes
    images = np.ascontiguousarray(job.task.split("test").images(artifact.input_spec, artifact.preprocessing)[:2])
    assert all(len(values) == 2 and np.isfinite(values).all() for values in load(file.files, "onnxruntime")(images).values())
