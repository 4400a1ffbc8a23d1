"""What is to be learned: images and targets, loss, metrics and decoding. Concrete tasks live in ``planish.tasks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

    from planish.artifact import InputSpec, Outputs, Pixels, Preprocessing
    from planish.measurement import Measurement

SplitName = Literal["train", "calibration", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")
LossKind = Literal["cross_entropy", "focal"]
ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True)
class LossSettings:
    """What a training wishes of the loss; the fields are those of ``FitSettings``, where they are explained and checked."""

    kind: LossKind = "cross_entropy"
    focal_gamma: float = 2.0
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0


PLAIN_LOSS = LossSettings()


class Split(Protocol):
    """A fixed, ordered list of images with their targets."""

    @property
    def keys(self) -> Sequence[str]:
        """One stable name an image: its path below the data folder."""
        ...

    @property
    def targets(self) -> Any:
        """One target an image; for classification an int64 array ``(N,)``."""
        ...

    def __len__(self) -> int: ...

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Pixels:
        """All images as the model is fed them, uint8 ``(N, H, W, C)``; memory-mapped, so slicing is cheap and the whole need not fit."""
        ...

    def file_bytes(self, index: int) -> bytes:
        """The image file as it lies on disk."""
        ...


class Task(Protocol):
    """Everything that depends on what is learned. Nothing outside ``planish.tasks`` asks which task it is.

    The four splits are disjoint, except that calibration is part of train. Validation chooses; test is read once, at the end.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def primary_metric(self) -> str:
        """Name of the metric that decides, in percent, higher is better."""
        ...

    def split(self, name: SplitName) -> Split: ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Training loss, a scalar, the mean over images. ``targets`` are as the split gives them, or soft ``(N, classes)`` after mixup."""
        ...

    def distillation_loss(
        self, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float, targets: torch.Tensor | None = None
    ) -> torch.Tensor:
        """How far the student's outputs are from the teacher's, a scalar on the scale of ``loss``; decoupled where targets are given."""
        ...

    def decode(self, outputs: Outputs) -> Any:
        """Named model outputs to predictions, one an image."""
        ...

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """One score an image, float64 ``(N,)``, whose mean is the primary metric in percent / 100; what paired comparisons are made of."""
        ...

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """All metrics with their intervals, the primary one first."""
        ...
