"""A one-stage, anchor-free detector on any backbone, optionally with instance masks.

In the spirit of the YOLO family and of TOOD: a pyramid with top-down and bottom-up paths, a classification and a box branch at each level,
and distributions of the distances to a box's sides. Masks are linear combinations of shared prototypes (D. Bolya et al., YOLACT, 2019,
arXiv:1904.02689).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from planish.errors import ModelError
from planish.models.detection.assignment import Assigned, assign
from planish.models.detection.decode import boxes_of, candidates, centres_of, suppress
from planish.models.detection.levels import BINS, DETECTIONS
from planish.models.detection.losses import detection_loss, ignored_places, mask_loss, within
from planish.models.heads.backbone import Backbone, conv_block
from planish.models.heads.pyramid import Pyramid

_PRIOR = 0.01  # initial probability of each class at each location
_COEFFICIENTS = 24
_MASKS_LEARNED = 256  # maximum number of masks per batch in the loss
_MASKS = 2.0  # weight of the mask loss


class Detector(nn.Module):
    """A detector. Raw outputs: ``level_<stride>`` ``(N, 4 * bins + classes [+ coefficients], h, w)`` for each level; with masks also
    ``prototypes``.

    Args:
        classifier: the backbone, with its weights.
        num_classes: number of object classes.
        channels: number of image channels.
        strides: strides of the levels.
        bins: number of bins of the distance distributions: distances of 0 to ``bins - 1`` cells can be predicted; see ``levels``.
        detections: number of detections per image.
        masks: whether to predict a mask for each object.
        width: channels of the pyramid.
    """

    def __init__(
        self,
        classifier: nn.Module,
        num_classes: int,
        channels: int,
        strides: Sequence[int],
        *,
        bins: int = BINS,
        detections: int = DETECTIONS,
        masks: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.num_classes, self.strides, self.bins, self.detections = num_classes, tuple(strides), bins, detections
        self.coefficients = _COEFFICIENTS if masks else 0
        self.backbone = Backbone(classifier, channels, strides)
        self.pyramid = Pyramid(self.backbone.widths, width)
        self.heads = nn.ModuleList(_Head(width, num_classes, bins, self.coefficients) for _ in strides)
        self.prototypes = _Prototypes(width, self.coefficients) if masks else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.pyramid(self.backbone(x))
        found = {f"level_{stride}": head(each) for stride, head, each in zip(self.strides, self.heads, maps, strict=True)}
        if self.prototypes is not None:
            found["prototypes"] = self.prototypes(maps[0])
        return found

    def loss(self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """The training loss, a scalar.

        Args:
            outputs: raw outputs.
            targets: for each image ``boxes`` ``(M, 4)``, ``labels`` ``(M,)`` and, with masks, ``masks`` ``(M, h, w)``; optionally
                ``ignored_boxes`` and ``ignored_labels``: locations in these boxes are not trained as background of that class.
        """
        logits, sides, more, centres, cells = self._read(outputs)
        boxes = boxes_of(sides, centres, cells)
        wanted = pad_sequence([t["boxes"] for t in targets], batch_first=True).to(boxes)
        labels = pad_sequence([t["labels"] for t in targets], batch_first=True)
        there = pad_sequence([torch.ones_like(t["labels"], dtype=torch.bool) for t in targets], batch_first=True)
        if wanted.shape[1] == 0:  # no object in any image
            wanted, labels, there = (functional.pad(v, (0, 0, 0, 1) if v.ndim == 3 else (0, 1)) for v in (wanted, labels, there))
        assigned = assign(logits.detach().sigmoid(), boxes.detach(), centres, cells, wanted, labels, there)
        ignored = ignored_places(targets, centres, cells, self.num_classes)
        loss = detection_loss(logits, sides, boxes, centres, cells, assigned, ignored)
        if self.coefficients:
            loss = loss + _MASKS * self._mask_loss(outputs["prototypes"], more, targets, assigned)
        return loss

    def decode(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Decode raw outputs to ``boxes`` ``(N, K, 4)``, ``scores``, ``labels`` and, with masks, ``masks`` ``(N, K, h, w)``: probabilities
        over the whole image.
        """
        values, centres, cells = self._places(outputs)
        surest, scores, labels = candidates(self._parts(values)[1], self.detections)
        # boxes are decoded for the candidates only, as decoding all locations would take most of the time
        sides, _, more = self._parts(values.gather(2, surest.unsqueeze(1).expand(-1, values.shape[1], -1)))
        boxes = boxes_of(self._of_bins(sides), centres[surest], cells[surest])
        rest = [more.transpose(1, 2).tanh()] if self.coefficients else []
        boxes, scores, labels, *rows = suppress(boxes, scores.sigmoid(), labels, *rest, kept=self.detections)
        found = {"boxes": boxes, "scores": scores, "labels": labels}
        if self.coefficients:
            prototypes = outputs["prototypes"]
            masks = torch.einsum("nkc,nchw->nkhw", rows[0], prototypes).sigmoid()
            found["masks"] = masks * within(boxes, prototypes.shape[2], prototypes.shape[3])
        return found

    def distance(self, outputs: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """The distillation loss between raw outputs and a teacher's; a scalar.

        Binary cross-entropy for classes and the KL divergence of the distance distributions for boxes (Z. Zheng et al., Localization
        distillation, 2022, arXiv:2102.12252), with locations weighted by the teacher's confidence. Only levels that both networks have are
        compared, and only their classes if the teacher takes larger images or has other bins.

        Raises:
            ModelError: student and teacher have no level in common.
        """
        parts: list[Tensor] = []
        names = [f"level_{stride}" for stride in self.strides]
        if not any(name in teacher for name in names):
            raise ModelError(
                f"the teacher has {', '.join(teacher)}",
                f"levels are compared, and the student has {', '.join(names)}",
                "choose another teacher",
            )
        for name in (name for name in names if name in teacher):
            ours, theirs = outputs[name], teacher[name]
            alike = ours.shape == theirs.shape
            if ours.shape[2:] != theirs.shape[2:]:
                theirs = functional.adaptive_max_pool2d(theirs, ours.shape[2:])
            start, end = 4 * self.bins, 4 * self.bins + self.num_classes
            theirs_start = start + theirs.shape[1] - ours.shape[1]  # both have the same number of class and mask channels
            sure = theirs[:, theirs_start : theirs_start + self.num_classes].sigmoid()
            weight = sure.amax(1)
            whole = weight.sum().clamp_min(1.0)
            classes = functional.binary_cross_entropy_with_logits(ours[:, start:end], sure, reduction="none")
            least = functional.binary_cross_entropy(sure, sure, reduction="none")  # minimum of the cross-entropy
            parts.append((classes - least).sum() / whole)
            if alike:
                mine, theirs_log = (functional.log_softmax(torch.unflatten(v[:, :start], 1, (4, self.bins)), 2) for v in (ours, theirs))
                divergence = functional.kl_div(mine, theirs_log, reduction="none", log_target=True).sum(2).mean(1)
                parts.append((weight * divergence).sum() / whole)
            if alike and self.coefficients:
                squares = (ours[:, end:].tanh() - theirs[:, end:].tanh()).square().mean(1)
                parts.append((weight * squares).sum() / whole)
        if self.coefficients and outputs["prototypes"].shape == teacher["prototypes"].shape:
            theirs = teacher["prototypes"]
            parts.append(functional.mse_loss(outputs["prototypes"], theirs) / theirs.var().clamp_min(1e-12))
        return torch.stack(parts).sum()

    def _read(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Class logits ``(N, A, classes)``, distance logits ``(N, A, 4, bins)``, mask coefficients, centres and cells of all locations."""
        values, centres, cells = self._places(outputs)
        sides, logits, more = self._parts(values)
        return logits.transpose(1, 2), self._of_bins(sides), more.transpose(1, 2).tanh(), centres, cells

    def _places(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The locations of all levels, concatenated: raw outputs ``(N, values, A)``, centres and cell sizes ``(A, 2)``."""
        rows, centres, cells = [], [], []
        for stride in self.strides:
            values = outputs[f"level_{stride}"]
            where, size = centres_of(values.shape[2], values.shape[3], values)
            rows.append(values.flatten(2))
            centres.append(where)
            cells.append(size.expand(len(where), 2))
        return torch.cat(rows, 2), torch.cat(centres), torch.cat(cells)

    def _parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance logits, class logits and mask coefficients, ``(N, ..., A)``."""
        sides, logits, more = torch.split(values, [4 * self.bins, self.num_classes, self.coefficients], 1)
        return sides, logits, more

    def _of_bins(self, sides: Tensor) -> Tensor:
        return torch.unflatten(sides.transpose(1, 2), 2, (4, self.bins))

    def _mask_loss(self, prototypes: Tensor, coefficients: Tensor, targets: Sequence[dict[str, Tensor]], assigned: Assigned) -> Tensor:
        image, place = assigned.positive.nonzero(as_tuple=True)
        if not len(image):
            return 0.0 * prototypes.sum()
        if len(image) > _MASKS_LEARNED:
            some = torch.randperm(len(image))[:_MASKS_LEARNED].to(image.device)
            image, place = image[some], place[some]
        size = prototypes.shape[2:]
        resized = [functional.interpolate(t["masks"][None].to(prototypes), size, mode="area")[0] for t in targets]
        wanted = torch.stack([resized[int(i)][int(k)] for i, k in zip(image, assigned.object[image, place], strict=True)])
        masks = torch.einsum("pc,pchw->phw", coefficients[image, place], prototypes[image])
        weights = assigned.weights[image, place]
        return (weights * mask_loss(masks, (wanted > 0.5).to(masks), assigned.boxes[image, place])).sum() / weights.sum().clamp_min(1e-6)


class _Head(nn.Module):
    """A level's head with branches for boxes, for classes and, if ``coefficients`` is not 0, for mask coefficients."""

    def __init__(self, width: int, num_classes: int, bins: int, coefficients: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(conv_block(width, width), nn.Conv2d(width, 4 * bins, 1))
        self.classes = nn.Sequential(conv_block(width, width), nn.Conv2d(width, num_classes, 1))
        self.masks = nn.Sequential(conv_block(width, width), nn.Conv2d(width, coefficients, 1)) if coefficients else None
        last: Any = self.classes[1]
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.boxes(x), self.classes(x)]
        if self.masks is not None:
            parts.append(self.masks(x))
        return torch.cat(parts, 1)


class _Prototypes(nn.Module):
    """Mask prototypes at twice the resolution of the finest level."""

    def __init__(self, width: int, coefficients: int) -> None:
        super().__init__()
        self.before, self.after = conv_block(width, width), conv_block(width, width // 2)  # fewer channels: 4 times the MACs when upsampled
        self.last = nn.Conv2d(width // 2, coefficients, 1)

    def forward(self, x: Tensor) -> Tensor:
        larger = functional.interpolate(self.before(x), scale_factor=2.0, mode="nearest")
        found: Tensor = self.last(self.after(larger))
        return found
