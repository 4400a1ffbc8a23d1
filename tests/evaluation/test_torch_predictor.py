"""A torch network as a predictor gives what the network gives."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from planish.artifact import Preprocessing
from planish.evaluation.torch_predictor import TorchPredictor


def test_it_normalises_batches_and_leaves_the_modes_alone():
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
