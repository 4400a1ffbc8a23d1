"""A task small enough to train on in a second: which quarter of the image is bright."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from planish.artifact import Artifact, InputSpec, Lineage, Preprocessing, Source
from planish.models import create
from planish.task import PLAIN_LOSS, LossSettings
from planish.tasks import Classification

SIZE = 12
PREPROCESSING = Preprocessing(decode_side=SIZE, resize="squash", mean=(0.3,), std=(0.25,))
SPEC = InputSpec(1, SIZE, SIZE)


@dataclass
class Quarters:
    """Noise with one brighter quarter."""

    count: int
    seed: int
    asked: list[InputSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = np.random.default_rng(self.seed).integers(0, 4, self.count)

    @property
    def keys(self) -> list[str]:
        return [str(number) for number in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        self.asked.append(spec)
        images = np.random.default_rng(self.seed + 1).integers(0, 130, (self.count, spec.height, spec.width, 1))
        for image, target in zip(images, self.targets, strict=True):
            y, x = divmod(int(target), 2)
            image[y * spec.height // 2 :, x * spec.width // 2 :][: spec.height // 2, : spec.width // 2] += 40
        return images.astype(np.uint8)

    def file_bytes(self, index: int) -> bytes:
        raise NotImplementedError


@dataclass
class QuarterTask:
    """Implements ``planish.task.Task``."""

    batch_targets, augment, guessing = Classification.batch_targets, Classification.augment, Classification.guessing

    splits: dict[str, Quarters]
    name: str = "quarters"
    class_names: tuple[str, ...] = ("a", "b", "c", "d")
    primary_metric: str = "accuracy"
    seen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def split(self, name: str) -> Quarters:
        return self.splits[name]

    def loss(self, network: nn.Module, outputs: torch.Tensor, targets: torch.Tensor, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        self.seen.append((outputs.detach(), targets))
        return functional.cross_entropy(outputs, targets, label_smoothing=settings.label_smoothing)

    def distillation_loss(
        self, network: nn.Module, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float, targets: Any = None
    ) -> torch.Tensor:
        return functional.mse_loss(outputs, teacher)

    def decode(self, outputs: dict[str, Any]) -> Any:
        return outputs["logits"].argmax(1)

    def scores(self, outputs: dict[str, Any], targets: Any) -> Any:
        return (self.decode(outputs) == targets).astype(np.float64)

    def metrics(self, outputs: dict[str, Any], targets: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def task() -> QuarterTask:
    return QuarterTask({"train": Quarters(160, 0), "validation": Quarters(80, 10)})


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet8x0.5", num_classes=4, channels=1, image_size=SIZE).module


@pytest.fixture
def artifact(network: nn.Module) -> Artifact:
    source = Source("resnet8x0.5", 4, 1)
    return Artifact("torch", SPEC, PREPROCESSING, ("a", "b", "c", "d"), Lineage(source), module=network.eval())
