"""Scores of untrained networks that are said to predict their accuracy."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn

Proxy = Literal["macs", "parameters", "synflow", "naswot"]

REFERENCES: dict[Proxy, str] = {
    "macs": "the most multiplications within the limits, a plain baseline",
    "parameters": "the most parameters within the limits, a plain baseline",
    "synflow": "Tanaka et al. 2020, arXiv:2006.05467; Abdelfattah et al. 2021, arXiv:2101.08134",
    "naswot": "Mellor et al. 2021, arXiv:2006.04647",
}
"""What each proxy is, or where it was proposed."""


def synflow(module: nn.Module, shape: tuple[int, int, int]) -> float:
    """Return the logarithm of the sum of ``weight * gradient`` of a network whose weights are all positive, for an image of ones.

    Batch norm is as it was initialised, in eval mode, and so passes on what it gets.

    Args:
        module: the untrained network; not changed.
        shape: channels, height and width of the image.
    """
    positive = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    positive(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
    weights = [p for p in positive.parameters() if p.ndim > 1 and p.grad is not None]
    total = sum(float((p.detach() * p.grad).sum()) for p in weights if p.grad is not None)
    return math.log(max(total, 1e-300))


def naswot(module: nn.Module, images: Tensor) -> float:
    """Return how differently the ReLUs of an untrained network react to different images.

    It is the log-determinant of the matrix that counts, for each two images, the activations that are zero for both or for neither.

    Args:
        module: the untrained network, with ReLU as layers; not changed.
        images: normalised images ``(N, C, H, W)``, N at least 2.
    """
    network, agreeing = copy.deepcopy(module).train(), torch.zeros(len(images), len(images), dtype=torch.float64)

    def count(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        active = (output > 0).flatten(1).float()
        agreeing.add_((active @ active.T + (1 - active) @ (1 - active).T).double())

    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(images)
    return float(torch.linalg.slogdet(agreeing)[1])
