"""Strided 1x1 convolutions: the same outputs and gradients, and nothing written past a buffer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from planish.models.strided import SafeStrides

LAYERS = (
    nn.Conv2d(8, 16, 1, stride=2),
    nn.Conv2d(8, 16, 1, stride=(3, 2), bias=False),
    nn.Conv2d(8, 8, 1, stride=2, groups=4),
    nn.Conv2d(8, 16, 1, stride=2, padding=1),
    nn.Conv2d(8, 16, 3, stride=2, padding=1),
    nn.Conv2d(8, 16, 1),
    nn.Conv2d(16, 16, 1, stride=2),
)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_outputs_and_gradients_are_those_of_float64(layer: nn.Conv2d) -> None:
    """Which oneDNN does not compute."""
    images = torch.randn(3, layer.in_channels, 15, 14, generator=torch.Generator().manual_seed(0))
    wanted, wanted_gradients = _run(layer, images.double())
    with SafeStrides():
        found, found_gradients = _run(layer, images)
    assert torch.allclose(found, wanted.float(), atol=1e-5)
    for one, other in zip(found_gradients, wanted_gradients, strict=True):
        assert torch.allclose(one, other.float(), atol=1e-4)


def _run(layer: nn.Conv2d, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    layer = layer.to(images.dtype)
    outputs = layer(images)
    return outputs, torch.autograd.grad(outputs.square().sum(), list(layer.parameters()))


TRAINING = """
import torch
from planish.models.strided import SafeStrides
images = torch.randn(13, 8, 28, 28).contiguous(memory_format=torch.channels_last)
layer = torch.nn.Conv2d(8, 16, 1, stride=2).to(memory_format=torch.channels_last)
for _ in range(3):
    with SafeStrides():
        outputs = layer(images)
    outputs.sum().backward()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the GNU C library's checks of the heap")
def test_the_heap_stays_whole() -> None:
    checked = {**os.environ, "LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    ended = subprocess.run([sys.executable, "-c", TRAINING], env=checked, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
