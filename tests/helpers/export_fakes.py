"""A small task and a small network with what real ones are made of; shared by the tests of export and INT8."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.data.normalisation import Normalise
from planish.data.preprocessing import preprocess
from planish.evaluation.metrics.classification import classification_metrics
from planish.tasks import Classification

if TYPE_CHECKING:
    from planish.artifact import Pixels

CLASSES = ("bar", "dot", "plain")
SPEC = InputSpec(3, 32, 32)
PREPROCESSING = Preprocessing(64, "squash", (0.45, 0.4, 0.5), (0.25, 0.2, 0.3))


class Images:
    """Bars, dots and plain fields in noise, as PNG files of several sizes."""

    def __init__(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.targets = np.arange(count) % 3
        self.files = [self._draw(rng, target, 24 + 8 * (i % 4)) for i, target in enumerate(self.targets)]
        self.keys = [f"{CLASSES[t]}/{i}.png" for i, t in enumerate(self.targets)]

    @staticmethod
    def _draw(rng: np.random.Generator, target: int, size: int) -> bytes:
        image = rng.normal(90, 12, (size, size + 6, 3))
        if target == 0:
            image[:, size // 3 : size // 2] += 110
        elif target == 1:
            image[size // 3 : size // 2, size // 3 : size // 2, :2] += 130
        file = io.BytesIO()
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def __len__(self) -> int:
        return len(self.files)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        return np.stack([preprocess(data, spec, preprocessing) for data in self.files])

    def file_bytes(self, index: int) -> bytes:
        return self.files[index]


class FakeTask:
    """The part of ``planish.task.Task`` that exporting asks for; the test split may not be read."""

    name = "classification"
    class_names = CLASSES
    primary_metric = "accuracy"
    batch_targets = Classification.batch_targets

    def __init__(self) -> None:
        self.splits = {"calibration": Images(48, 0), "validation": Images(36, 1)}

    def split(self, name: str) -> Any:
        return self.splits[name]

    def metrics(self, outputs: Any, targets: Any) -> Any:
        return classification_metrics(outputs["logits"], targets, CLASSES)


class SmallNet(nn.Module):
    """Residual, depthwise, ReLU6, squeeze-and-excitation and a shuffle-like reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
        self.last = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.Hardswish(inplace=True))
        self.pool, self.head = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        shuffled = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = x + self.wide(self.deep(shuffled))
        x = self.last(x * self.squeeze(x))
        return self.head(torch.flatten(self.pool(x), 1))


def trained(task: FakeTask) -> Artifact:
    """``SmallNet`` after a few seconds of training; an untrained one has no classes for INT8 to preserve."""
    torch.manual_seed(0)
    net = SmallNet().train()
    split = task.split("calibration")
    x = Normalise(PREPROCESSING.mean, PREPROCESSING.std)(torch.from_numpy(split.images(SPEC, PREPROCESSING)))
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(net(x), torch.from_numpy(split.targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Artifact("torch", SPEC, PREPROCESSING, CLASSES, Lineage(Source("module", 3, 3)), module=net.eval())
