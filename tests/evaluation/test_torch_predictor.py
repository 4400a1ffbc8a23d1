"""A torch network as a predictor gives what the network gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from planish.artifact import Preprocessing
from planish.evaluation.torch_predictor import TorchPredictor


def test_it_normalises_batches_and_leaves_the_network_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    network.train()
    network[1].eval()  # as a frozen layer is
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 9, 3), dtype=np.uint8)
    done: list[int] = []
    logits = TorchPredictor(network, Preprocessing(8, "squash", mean, std), batch_size=3)(images, done.append)["logits"]
    assert [m.training for m in network] == [True, False, True, True, True, True]
    assert done == [3, 3, 1]
    assert logits.dtype == np.float32
    expected = network.eval()(torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)))
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-5)


class _Separable(nn.Sequential):
    def __init__(self, views: bool) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1),
            nn.Identity() if views else nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.views = views

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = super().forward(x)
        return maps.view(len(maps), -1)[:, :5] if self.views else maps.flatten(1)


@pytest.mark.parametrize("views", [False, True])
def test_depthwise_networks_run_channels_last_unless_their_code_needs_contiguous_maps(views: bool) -> None:
    torch.manual_seed(0)
    network = _Separable(views)
    network[2].running_mean.normal_()
    network[2].running_var.uniform_(0.5, 2)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), dtype=np.uint8)
    found = TorchPredictor(network, Preprocessing(16, "squash", (0.5,) * 3, (0.5,) * 3))(images)["logits"]
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5).contiguous() / 0.5
    np.testing.assert_allclose(found, network.eval()(pixels).detach().numpy(), atol=1e-5)
    assert network[2].running_mean.shape == (8,), "the given network keeps its batch norm"


def test_batches_of_large_images_are_smaller() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    done: list[int] = []
    TorchPredictor(network, Preprocessing(1024, "squash", (0.5,) * 3, (0.5,) * 3))(np.zeros((5, 1024, 512, 3), np.uint8), done.append)
    assert done == [2, 2, 1]
