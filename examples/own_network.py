"""Optimize a network of your own. Any module that takes (N, C, H, W) and returns logits (N, classes) will do."""

from pathlib import Path

import torch
from torch import nn

import planish
from planish.testing import write_shapes


class Network(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.classifier = nn.Linear(32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))


data = write_shapes(Path("shapes"), per_class=100)
result = planish.optimize(data, model=Network(), max_drop=5, budget="40s", out="runs/own")
print(result.verdict)
