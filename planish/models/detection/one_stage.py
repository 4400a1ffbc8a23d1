"""torchvision's one-stage detectors (FCOS, RetinaNet, SSD, SSDLite) with raw maps as outputs, like ``Detector``.

torchvision's own code resizes, normalises and suppresses with Python control flow, which cannot be exported; only its layers, anchors and
losses are used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from planish.models.detection.decode import keep_best
from planish.models.detection.ignored import ignored_boxes
from planish.models.detection.levels import DETECTIONS

_SURE = 100.0  # a logit whose loss is 0 in float32


class OneStage(nn.Module):
    """A one-stage detector of torchvision. Raw outputs: ``level_<number>`` ``(N, values, h, w)`` for each level, with class logits,
    distances or offsets and, for FCOS, centre-ness.

    Args:
        model: torchvision's detector.
        num_classes: number of object classes, without background.
        detections: number of detections per image.
    """

    def __init__(self, model: FCOS | RetinaNet | SSD, num_classes: int, detections: int = DETECTIONS) -> None:
        super().__init__()
        self.model, self.num_classes, self.detections = model, num_classes, detections
        self.classes = num_classes + isinstance(model, SSD)  # class 0 of SSD's softmax is the background

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for i, maps in enumerate(self.model.backbone(x).values()):
            head = self.model.head
            if isinstance(self.model, SSD):
                parts = [head.classification_head.module_list[i](maps), head.regression_head.module_list[i](maps)]
            else:
                class_maps, placed = head.classification_head.conv(maps), head.regression_head.conv(maps)
                parts = [head.classification_head.cls_logits(class_maps), head.regression_head.bbox_reg(placed)]
                if isinstance(self.model, FCOS):
                    parts[1] = parts[1].relu()
                    parts.append(head.regression_head.bbox_ctrness(placed))
            found[f"level_{i}"] = torch.cat(parts, 1)
        return found

    def loss(self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """torchvision's loss, in which ignored boxes have no part; a scalar."""
        heads, anchors, counts, (height, width) = self._read(outputs)
        size = torch.tensor([width, height, width, height], dtype=anchors.dtype, device=anchors.device)
        first = int(isinstance(self.model, SSD))
        wanted = [{"boxes": t["boxes"].to(size) * size, "labels": t["labels"] + first} for t in targets]
        heads["cls_logits"] = self._without_ignored(heads["cls_logits"], anchors, targets, size)
        each = [anchors] * len(targets)
        if isinstance(self.model, FCOS):
            losses = self.model.compute_loss(wanted, heads, each, counts)
        elif isinstance(self.model, RetinaNet):
            losses = self.model.compute_loss(wanted, heads, each)
        else:
            from torchvision.ops import box_iou

            matched = [
                self.model.proposal_matcher(box_iou(t["boxes"], anchors))
                if len(t["boxes"])
                else torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
                for t in wanted
            ]
            losses = self.model.compute_loss(wanted, heads, each, matched)
        return torch.stack(list(losses.values())).sum()

    def _without_ignored(self, logits: Tensor, anchors: Tensor, targets: Sequence[dict[str, Tensor]], size: Tensor) -> Tensor:
        """Class logits, set to certain background where a class is ignored, so that loss and gradient are 0 there."""
        if not any(len(t.get("ignored_labels", ())) for t in targets):
            return logits
        logits = logits.clone()
        for row, target in enumerate(targets):
            if not len(target.get("ignored_labels", ())):
                continue
            regions, objects = (target[name].to(size) * size for name in ("ignored_boxes", "boxes"))
            if isinstance(self.model, SSD):  # a softmax: all classes at once
                logits[row, ignored_boxes(anchors, regions, objects)] = _SURE * torch.eye(self.classes).to(logits)[0]
                continue
            for label in set(target["ignored_labels"].tolist()):
                of_class = regions[target["ignored_labels"] == label], objects[target["labels"] == label]
                logits[row, ignored_boxes(anchors, *of_class), label] = -_SURE
        return logits

    def decode(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Decode raw outputs to normalized ``boxes``, ``scores`` and ``labels``, with the suppression of ``decode.keep_best``."""
        heads, anchors, _, (height, width) = self._read(outputs)
        logits, offsets = heads["cls_logits"], heads["bbox_regression"]
        if isinstance(self.model, SSD):
            scores, boxes = logits.softmax(2)[..., 1:], moved(anchors, offsets, self.model.box_coder.weights)
        elif isinstance(self.model, RetinaNet):
            scores, boxes = logits.sigmoid(), moved(anchors, offsets, (1.0, 1.0, 1.0, 1.0))
        else:
            scores = (logits.sigmoid() * heads["bbox_ctrness"].sigmoid()).sqrt()
            sides = anchors[:, 2:] - anchors[:, :2]
            middle = (anchors[:, 2:] + anchors[:, :2]) / 2
            reach = offsets * sides.repeat(1, 2)
            boxes = torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], 2)
        size = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
        boxes, scores, labels = keep_best(boxes / size, scores, self.detections)
        return {"boxes": boxes, "scores": scores, "labels": labels}

    def _read(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, list[int], tuple[int, int]]:
        """Head outputs ``(N, A, values)`` of all anchors by torchvision's names, the anchors ``(A, 4)`` in pixels, the number of anchors of
        each level, and height and width of the image.
        """
        maps = list(outputs.values())
        height, width = (side * self.first_stride for side in maps[0].shape[2:])
        blank = ImageList(maps[0].new_zeros(1, 3, height, width), [(height, width)])
        shapes = [values.new_zeros(1, 1, *values.shape[2:]) for values in maps]
        anchors: Tensor = self.model.anchor_generator(blank, shapes)[0]
        logits, offsets, centred, counts = [], [], [], []
        for i, values in enumerate(maps):
            each = self._anchors_a_place(i)
            first, last = each * self.classes, each * (self.classes + 4)
            logits.append(rows_of(values[:, :first], self.classes))
            offsets.append(rows_of(values[:, first:last], 4))
            if isinstance(self.model, FCOS):
                centred.append(rows_of(values[:, last:], 1))
            counts.append(each * values.shape[2] * values.shape[3])
        heads = {"cls_logits": torch.cat(logits, 1), "bbox_regression": torch.cat(offsets, 1)}
        return heads | ({"bbox_ctrness": torch.cat(centred, 1)} if centred else {}), anchors, counts, (height, width)

    def _anchors_a_place(self, level: int) -> int:
        generator: Any = self.model.anchor_generator
        return int(generator.num_anchors_per_location()[level])

    @property
    def first_stride(self) -> int:
        """The stride of the first map, of which the sides of images are multiples."""
        return 16 if isinstance(self.model, SSD) and "Lite" in type(self.model.head).__name__ else 8


def moved(anchors: Tensor, offsets: Tensor, weights: Sequence[float]) -> Tensor:
    """Apply predicted offsets ``(N, A, 4)`` to anchors ``(A, 4)`` or ``(N, A, 4)``, in the box encoding of R-CNN.

    R. Girshick et al., Rich feature hierarchies for accurate object detection, 2014 (arXiv:1311.2524).
    """
    sides, middle = anchors[..., 2:] - anchors[..., :2], (anchors[..., 2:] + anchors[..., :2]) / 2
    scaled = offsets / torch.tensor(weights, dtype=offsets.dtype, device=offsets.device)
    centre = middle + scaled[..., :2] * sides
    half = sides * scaled[..., 2:].clamp(max=4.135).exp() / 2  # log(1000 / 16), torchvision's limit
    return torch.cat([centre - half, centre + half], 2)


def rows_of(values: Tensor, each: int) -> Tensor:
    """Reshape ``(N, anchors * each, h, w)`` to ``(N, h * w * anchors, each)``, in the order of torchvision's anchors."""
    height, width = values.shape[2:]
    anchors = values.shape[1] // each
    return torch.unflatten(values, 1, (anchors, each)).permute(0, 3, 4, 1, 2).reshape(-1, height * width * anchors, each)
