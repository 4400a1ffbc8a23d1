"""The libraries' networks: created for small and middling images, one step of training, saved, loaded, and the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing
from planish.models import create, load_artifact, save_artifact
from planish.training import FitSettings, fit

from .conftest import Quarters, QuarterTask

TORCHVISION = (
    "resnet18 mobilenet_v2 mobilenet_v3_small shufflenet_v2_x1_0 efficientnet_b0 densenet121 convnext_tiny regnet_y_400mf vgg11_bn "
    "googlenet inception_v3 squeezenet1_1 mnasnet0_5 alexnet resnext50_32x4d"
)
TIMM = (
    "resnet10t mobilenetv3_small_050 mobilenetv4_conv_small tf_efficientnet_lite0 ghostnet_100 repvgg_a0 regnetx_002 hrnet_w18_small "
    "densenet121 convnext_atto dla34 res2net50_26w_4s"
)
NAMES = [f"torchvision:{name}" for name in TORCHVISION.split()] + [f"timm:{name}" for name in TIMM.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [(32, 1), (80, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_created_trained_saved_and_loaded(name: str, size: int, channels: int, tmp_path: Path):
    torch.manual_seed(0)
    created = create(name, num_classes=4, channels=channels, image_size=size)
    spec = InputSpec(1, size, size)  # the test's images are grey
    preprocessing = Preprocessing(size, "squash", (0.3,), (0.25,))
    task = QuarterTask({"train": Quarters(5, 0), "validation": Quarters(2, 1)})
    module = created.module if channels == 1 else torch.nn.Sequential(Spread(), created.module)
    settings = FitSettings(epochs=1, batch_size=4, learning_rate=1e-3, mixed_precision="off")
    fitted = fit(module, task, spec, preprocessing, settings)
    trained = fitted.module if channels == 1 else fitted.module[1]
    assert any(not torch.equal(a, b) for a, b in zip(created.module.parameters(), trained.parameters(), strict=True))
    artifact = Artifact("torch", InputSpec(channels, size, size), preprocessing, task.class_names, Lineage(created.source), module=trained)
    save_artifact(artifact, tmp_path / "a")
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        assert torch.equal(load_artifact(tmp_path / "a").module(images), trained(images))


class Spread(torch.nn.Module):
    """Grey to colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, 3, -1, -1)
