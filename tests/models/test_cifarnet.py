"""The network for short trainings, and the whitening of its first layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import planish
from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.compression import ChannelPruning, Int8
from planish.errors import TechniqueError
from planish.export import ToOnnx
from planish.models.surgery.whitening import Whitening, whitening_filters
from planish.models.zoo import create
from planish.plan import Plan
from planish.testing import write_shapes


@pytest.mark.parametrize(
    ("name", "size", "channels", "width"), [("cifarnet", 32, 3, 256), ("cifarnetx0.25", 28, 1, 64), ("cifarnetx2", 9, 3, 512)]
)
def test_it_takes_small_images(name: str, size: int, channels: int, width: int) -> None:
    created = create(name, num_classes=7, channels=channels, image_size=size)
    assert created.module.eval()(torch.randn(2, channels, size, size)).shape == (2, 7)
    assert created.module.get_submodule("fc").in_features == width
    assert not created.pretrained


@pytest.mark.parametrize(("size", "channels"), [((2, 2), 3), ((3, 3), 1)])
def test_whitened_patches_are_uncorrelated_with_unit_variance(size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(64, channels, 34, 34), 3, 1)  # neighbouring pixels are alike
    filters = whitening_filters(smooth, size, 1e-9)
    count = channels * size[0] * size[1]
    assert filters.shape == (2 * count, channels, *size)
    assert torch.equal(filters[0::2], -filters[1::2])
    out = nn.functional.conv2d(smooth, filters[0::2]).transpose(0, 1).flatten(1)
    assert np.allclose(np.asarray(out @ out.T) / out.shape[1], np.eye(count), atol=1e-3)
    in_order = nn.functional.conv2d(smooth, filters[0::2] / filters[0::2].flatten(1).norm(dim=1)[:, None, None, None]).var((0, 2, 3))
    assert (in_order.diff() <= 1e-3).all(), "the directions of largest variance come first"


def _artifact(module: nn.Module) -> Artifact:
    preprocessing = Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3)
    return Artifact("torch", InputSpec(3, 16, 16), preprocessing, ("a", "b"), Lineage(Source("module", 2, 3)), module=module)


class _Split:
    targets = np.zeros(50, np.int64)

    def __len__(self) -> int:
        return 50

    def images(self, *_: object) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)


class _Task:
    def split(self, name: str) -> _Split:
        return _Split()


@pytest.mark.parametrize("out", [8, 24, 40])
def test_whitening_sets_the_channels_it_has_directions_for_and_freezes_them(out: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, out, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 2))
    before = network[0].weight.detach().clone()
    changed = Whitening().apply(_artifact(network), _Task()).module
    assert torch.equal(network[0].weight, before), "the given network stays as it is"
    assert (changed[0].weight[:24] != before[:24]).any(dim=(1, 2, 3)).all()
    assert torch.equal(changed[0].weight[24:], before[24:])
    assert not changed[0].weight.requires_grad
    assert changed[0].bias.requires_grad
    assert changed[4].weight.requires_grad


def test_whitening_needs_a_convolution_of_the_image() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(TechniqueError, match="first layer is no convolution"):
        Whitening().apply(_artifact(network), _Task())


def test_whitening_takes_the_place_of_other_normalisation() -> None:
    given = _artifact(nn.Sequential(nn.Conv2d(3, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)))
    with pytest.raises(TechniqueError, match="normalisation=z_score"):
        Whitening().apply(replace(given, preprocessing=replace(given.preprocessing, normalisation="z_score")), _Task())


def test_it_trains_with_its_recipe_and_is_exported(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=40, size=24)
    changes = ["epochs=4", "batch_size=16", "warmup_epochs=1", "learning_rate=0.05"]
    trained = planish.train(data, model="cifarnetx0.25", recipe="scratch-fast", changes=changes, out=tmp_path / "model")
    assert trained.metrics["accuracy"].value > 60
    plan = Plan(ChannelPruning(pruning_ratio=0.2), ToOnnx(), Int8())
    planish.compress(tmp_path / "model", data, plan=plan, out=tmp_path / "compressed")
    assert trained.artifact.lineage.steps[0].technique == "whitening"
