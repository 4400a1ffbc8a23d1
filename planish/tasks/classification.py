"""Single-label image classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from planish.evaluation.classification_metrics import classification_metrics

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.measurement import Measurement
    from planish.task import Split, SplitName


@dataclass(frozen=True)
class Classification:
    """One class an image. Models return logits ``(N, classes)``, exported files name them ``logits``.

    Args:
        splits: the four splits; targets are int64 ``(N,)``.
        class_names: in the order of the logits.
    """

    splits: Mapping[SplitName, Split]
    class_names: tuple[str, ...]
    name: str = "classification"
    primary_metric: str = "accuracy"

    def split(self, name: SplitName) -> Split:
        return self.splits[name]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy; ``targets`` are class indices ``(N,)`` or probabilities ``(N, classes)``."""
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def distillation_loss(self, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        """KL divergence of the softened distributions, averaged over images and multiplied by T² (Hinton et al. 2015, arXiv:1503.02531)."""
        student_log = F.log_softmax(outputs / temperature, dim=1)
        teacher_log = F.log_softmax(teacher / temperature, dim=1)
        return F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True) * temperature**2

    def decode(self, outputs: Outputs) -> Any:
        """The most likely class, int64 ``(N,)``."""
        return np.argmax(outputs["logits"], axis=1)

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """1.0 where the top class is right, float64 ``(N,)``."""
        return (self.decode(outputs) == np.asarray(targets)).astype(np.float64)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        return classification_metrics(outputs["logits"], np.asarray(targets), self.class_names)
