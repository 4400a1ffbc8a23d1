"""Detection and instance segmentation: boxes of several classes in an image, and a mask for each."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.errors.detection import detection_errors
from planish.evaluation.metrics.detection import (
    average_precision_by_class,
    detection_metrics,
    detection_scores,
    map_names,
    metric_name,
)
from planish.task import PLAIN_LOSS, AugmentSettings
from planish.tasks.base import PLAIN, BaseTask, ReadmeText, ResponseOptions, images_of
from planish.tasks.localisation import View, confident_rows, objects
from planish.tasks.metric_names import parse_metric

if TYPE_CHECKING:
    import torch
    from torch import nn

    from planish.artifact import InputSpec, Outputs, Pixels
    from planish.measurement import Measurement
    from planish.task import Augment, Kind, LossSettings

_EACH = f'for i in np.flatnonzero(y["scores"] > {LEAST_SCORE}): print(b["class_names"][y["labels"][i]], y["scores"][i], y["boxes"][i]'


@dataclass(frozen=True)
class Detection(BaseTask):
    """Objects in an image. Networks have their own ``loss`` and ``decode``; files name ``boxes``, ``scores``, ``labels``, ``masks``.

    Args:
        splits: the four splits; targets are ``Objects``.
        class_names: indexed by label; there is no background class.
        name: ``detection``, or ``instance``, which also learns and evaluates masks.
        counts_all: metrics count all detections, not only COCO's 100 per image and class; the names of the metrics state this.
        metric: primary metric, one of ``map_names``; of masks for ``instance``.
    """

    name: str = "detection"
    recipe: str = "objects"
    largest_side: int = 320
    whole_image: bool = True
    counts_all: bool = False
    metric: str = "map"

    @property
    def annotations(self) -> Kind:
        return "masks" if self.masks else "boxes"

    @property
    def options(self) -> tuple[str, ...]:
        return ("threshold",)

    @property
    def readme(self) -> ReadmeText:
        if self.masks:
            return ReadmeText("detector of objects and their masks", f'{_EACH}, y["masks"][i].mean())')
        return ReadmeText("detector of objects", f"{_EACH})")

    @property
    def masks(self) -> bool:
        return self.name == "instance"

    @property
    def primary_metric(self) -> str:
        return "mask_" * self.masks + metric_name(self.metric, uncapped=self.counts_all)

    def with_metric(self, name: str) -> Detection:
        names = {each.replace("_", ""): each for each in map_names()}
        return replace(self, metric=parse_metric(name, self.name, names, (), self.class_names))

    def uncapped(self) -> Detection:
        return replace(self, counts_all=True)

    def batch_targets(self, targets: Any, rows: Any, spec: InputSpec) -> list[dict[str, torch.Tensor]]:
        """Return one dict per image: ``boxes`` ``(M, 4)``, ``labels`` ``(M,)`` and, for instance segmentation, ``masks`` ``(M, h, w)``.

        Ignored objects, crowds and difficult ones, are in ``ignored_boxes`` and ``ignored_labels``.
        """
        from planish.data.targets.rasterise import object_targets

        return object_targets([targets[int(row)] for row in rows], (spec.height, spec.width) if self.masks else None)

    def answers(self, outputs: Outputs, spec: InputSpec) -> Any:
        """Return the objects that a service would return, with sizes in pixels of the input; masks are refused."""
        from planish.data.targets.objects import Objects

        if self.masks:
            super().answers(outputs, spec)
        found = []
        for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True):
            clipped = np.clip(boxes.astype(np.float32), 0, 1)
            rows = confident_rows(scores * (clipped[:, 2:] > clipped[:, :2]).all(axis=1))
            kept = clipped[rows]
            areas = (kept[:, 2:] - kept[:, :2]).astype(np.float64).prod(axis=1) * spec.height * spec.width
            found.append(Objects(kept, labels[rows].astype(np.int64), spec.height, spec.width, np.zeros(len(kept), bool), areas))
        return found

    def augment(self, spec: InputSpec, settings: AugmentSettings) -> Augment:
        """Return augmentation as in ``planish.data.augmentation.targets``; boxes and masks are transformed with the image."""
        from planish.data.augmentation.targets import augment_targets

        settings.require_only(self.name, "mixup_alpha", "mosaic", *["copy_paste"] * self.masks)
        return augment_targets(
            spec,
            settings.augmentation,
            settings.flip,
            mosaic=settings.mosaic,
            mixup_alpha=settings.mixup_alpha,
            copy_paste=settings.copy_paste,
        )

    def loss(self, network: nn.Module, outputs: Any, targets: Any, settings: LossSettings = PLAIN_LOSS) -> torch.Tensor:
        """Return the loss of the network, which depends on its box encoding."""
        from planish.data.augmentation.mixing import mixed_loss

        loss: Any = network.loss
        return mixed_loss(partial(loss, outputs), targets)

    def distillation_loss(self, network: nn.Module, outputs: Any, teacher: Any, temperature: float, targets: Any = None) -> torch.Tensor:
        """Return the network's own ``distance`` to the teacher's outputs, or else the squared difference over the teacher's variance."""
        from planish.models.outputs import distance

        found: torch.Tensor = getattr(network, "distance", distance)(outputs, teacher)
        return found

    def decode(self, outputs: Outputs) -> Any:
        """Return the outputs themselves: boxes, scores, labels, first axis N."""
        return outputs

    def guessing(self, targets: Any) -> float:
        """Return 0: boxes cannot be guessed."""
        return 0.0

    def scores(self, outputs: Outputs, targets: Any) -> Any:
        """Return the contribution of each image to the mean average precision: jackknife pseudo-values, whose mean it is."""
        return detection_scores(outputs, targets, self.class_names, masks=self.masks, uncapped=self.counts_all, metric=self.metric)

    def metrics(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        return detection_metrics(outputs, targets, self.class_names, masks=self.masks, uncapped=self.counts_all, primary=self.metric)

    def per_class(self, outputs: Outputs, targets: Any) -> dict[str, Measurement]:
        """Return the average precision of each class."""
        return average_precision_by_class(outputs, targets, self.class_names, masks=self.masks, uncapped=self.counts_all)

    def errors(self, outputs: Outputs, targets: Any, against: Outputs | None = None) -> dict[str, Measurement]:
        """Return the errors by kind: missed, wrong class, poorly localised, duplicate, and background."""
        return detection_errors(outputs, targets, self.class_names, masks=self.masks, against=against, uncapped=self.counts_all)

    def draw(self, pixels: Pixels, outputs: Outputs | None, targets: Any) -> Pixels:
        from planish.evaluation.drawing import draw_detections, draw_objects

        if outputs is None:
            return np.stack([draw_objects(image, objects, self.class_names) for image, objects in zip(pixels, targets, strict=True)])
        rows = [{name: values[i] for name, values in outputs.items()} for i in range(len(pixels))]
        return np.stack([draw_detections(image, row, self.class_names) for image, row in zip(pixels, rows, strict=True)])

    def responses(self, outputs: Outputs, views: Sequence[View], asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """Return ``height`` and ``width`` in pixels, and ``objects``; see ``localisation.objects``."""
        return [
            {"height": view.height, "width": view.width, "objects": objects(image, self.class_names, view, asked.threshold)}
            for image, view in zip(images_of(outputs), views, strict=True)
        ]

    def response_classes(self, answer: Mapping[str, Any]) -> list[str]:
        return [one["class"] for one in answer["objects"]]

    def detected_boxes(self, outputs: Outputs) -> list[list[dict[str, Any]]]:
        """Return ``class``, ``confidence`` and ``shares`` (the normalized box) of each object."""
        plain = {name: values for name, values in outputs.items() if name != "masks"}
        found = self.responses(plain, [View(1, 1)] * len(outputs["scores"]))
        return [[{name: one[name] for name in ("class", "confidence", "shares")} for one in answer["objects"]] for answer in found]

    def statistics(self, outputs: Outputs) -> list[tuple[dict[str, float], str | None]]:
        """Return the number of ``objects``, their mean ``object size`` and ``confidence``, and one class; see ``drift_statistics``."""
        found = []
        for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True):
            rows = confident_rows(scores)
            values, drawn = {"objects": float(len(rows))}, None
            if len(rows):
                left, top, right, bottom = np.clip(boxes[rows].astype(np.float64), 0, 1).T
                values["object size"] = float((np.maximum(0, right - left) * np.maximum(0, bottom - top)).mean())
                values["confidence"] = float(scores[rows].mean())
                lot = zlib.crc32(np.ascontiguousarray(scores).tobytes())  # reproducible: the same for the same scores
                drawn = self.class_names[int(labels[rows[lot % len(rows)]])]
            found.append((values, drawn))
        return found
