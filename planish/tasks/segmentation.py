"""Semantic segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.metrics.segmentation import (
    METRICS,
    OF_CLASS,
    guessing_score,
    iou_by_class,
    segmentation_metrics,
    segmentation_scores,
)
from planish.task import PLAIN_LOSS, AugmentSettings
from planish.tasks.base import PLAIN, BaseTask, ReadmeText, ResponseOptions, images_of
from planish.tasks.localisation import regions
from planish.tasks.metric_names import parse_metric

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs, Pixels
    from planish.measurement import Measurement
    from planish.task import Augment, Kind, LossSettings
    from planish.tasks.localisation import View

_SHARES = 'for c, n in zip(*np.unique(y["classes"], return_counts=True)): print(b["class_names"][c], n / y["classes"].size)'


@dataclass(frozen=True)
class SemanticSegmentation(BaseTask):
    """One class per pixel. Networks have their own ``loss`` and ``decode``; files name ``classes`` and ``confidence``.

    Args:
        splits: the four splits; targets are label maps, uint8 ``(H, W)``, 255 for ignored pixels.
        class_names: indexed by label.
        metric: name of the primary metric: ``miou``, ``dice``, ``pixel_accuracy`` or ``iou:CLASS``.
    """

    name: str = "semantic"
    recipe: str = "pixels"
    largest_side: int = 320
    whole_image: bool = True
    metric: str = "miou"

    @property
    def primary_metric(self) -> str:
        return self.metric

    def with_metric(self, name: str) -> SemanticSegmentation:
        return replace(self, metric=parse_metric(name, self.name, {each: each for each in METRICS}, (OF_CLASS,), self.class_names))

    @property
    def annotations(self) -> Kind:
        return "maps"

    @property
    def readme(self) -> ReadmeText:
        return ReadmeText("segmenter of pixels", _SHARES)

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> torch.Tensor:
        """Return class indices, int64 ``(n, height, width)``."""
        from planish.data.targets.rasterise import label_targets

        return label_targets([targets[int(row)] for row in rows], spec.height, spec.width)

    def answers(self, outputs: Outputs, spec: InputSpec) -> Any:
        """Return the label maps."""
        return list(self.decode(outputs))

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Return augmentation as in ``planish.data.augmentation.targets``; label maps are transformed with the image."""
        from planish.data.augmentation.targets import augment_targets

        settings.require_only(self.name, "mixup_alpha", "mosaic")
        return augment_targets(spec, settings.augmentation, settings.flip, mosaic=settings.mosaic, mixup_alpha=settings.mixup_alpha)

    def loss(self, network: nn.Module, outputs: Any, targets: Any, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Return the loss of the network."""
        from planish.data.augmentation.mixing import mixed_loss

        loss: Any = network.loss
        return mixed_loss(partial(loss, outputs), targets)

    def distillation_loss(
        self, network: nn.Module, outputs: torch.Tensor, teacher: torch.Tensor, temperature: float, targets: Any = None
    ) -> torch.Tensor:
        """Return the KL divergence of the softened class distribution of each pixel, times T² (Hinton et al. 2015, arXiv:1503.02531)."""
        import torch.nn.functional as F

        if teacher.shape != outputs.shape:
            teacher = F.interpolate(teacher, outputs.shape[2:], mode="bilinear")
        ours, theirs = (F.log_softmax(values / temperature, dim=1) for values in (outputs, teacher))
        pixels = ours.numel() / ours.shape[1]
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) / pixels * temperature**2

    def decode(self, outputs: Outputs) -> Any:
        """Return class indices, uint8 ``(N, h, w)``."""
        return outputs["classes"]

    def guessing(self, targets: Any) -> float:
        """Return the metric of assigning one class to every pixel, see ``guessing_score``."""
        return guessing_score(self.metric, targets, self.class_names)

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return the contribution of each image to the primary metric: jackknife pseudo-values, whose mean it is."""
        return segmentation_scores(outputs, targets, self.class_names, self.metric)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        return segmentation_metrics(outputs, targets, self.class_names, self.metric)

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the intersection over union of each class."""
        return iou_by_class(outputs, targets, self.class_names)

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """Return the points of mIoU lost to each kind of error, see ``segmentation_errors``."""
        from planish.evaluation.errors.segmentation import segmentation_errors

        return segmentation_errors(outputs, targets, self.class_names, against=against)

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels:
        from planish.evaluation.drawing import draw_labels

        maps = targets if outputs is None else outputs["classes"]
        return np.stack([draw_labels(image, labels, self.class_names) for image, labels in zip(pixels, maps, strict=True)])

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """Return ``height`` and ``width`` in pixels, the mean ``confidence``, and ``regions``; see ``localisation.regions``."""
        return [
            {
                "height": view.height,
                "width": view.width,
                "confidence": float(image["confidence"].mean()),
                "regions": regions(image, self.class_names, view),
            }
            for image, view in zip(images_of(outputs), views, strict=True)
        ]

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        return [one["class"] for one in answer["regions"]]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Return the mean ``confidence``, and the ``share of`` each class."""
        found: list[tuple[dict[str, float], str | None]] = []
        for labels, sure in zip(outputs["classes"], outputs["confidence"], strict=True):
            counts = np.bincount(labels.ravel(), minlength=len(self.class_names))
            shares = {f"share of {name}": float(count / labels.size) for name, count in zip(self.class_names, counts, strict=False)}
            found.append(({"confidence": float(sure.mean()), **shares}, None))
        return found
