"""torchvision's Faster and Mask R-CNN, with the pyramid's feature maps as raw outputs.

The region proposal network and the box and mask heads run in ``loss`` and ``decode``. So only the backbone and its pyramid are pruned and
quantized; the heads are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from planish.models.detection.decode import keep_best
from planish.models.detection.ignored import IgnoringProposals, ignored_boxes
from planish.models.detection.levels import DETECTIONS
from planish.models.detection.one_stage import moved, rows_of
from planish.models.heads.stem_and_classifier import run_order

_WATCH_SIZE = 128  # a multiple of all strides
_MASK_STRIDE = 4


class TwoStage(nn.Module):
    """A two-stage detector of torchvision. Raw outputs: the feature maps of the pyramid, ``map_<name>``.

    Args:
        model: torchvision's detector.
        num_classes: number of object classes, without background.
        detections: number of detections per image.
    """

    def __init__(self, model: FasterRCNN, num_classes: int, detections: int = DETECTIONS) -> None:
        super().__init__()
        self.model, self.num_classes, self.detections = model, num_classes, detections
        model.rpn.__class__ = IgnoringProposals  # safe, as the subclass adds no state; torchvision always builds its own class
        maps = run_order(model.backbone, 3, _WATCH_SIZE)[1]
        self.strides: list[int] = [_WATCH_SIZE // each.shape[2] for each in maps.values()]  # 4, 8, 16, 32, 64; MobileNet's maps 32, 32, 64

    @property
    def first_stride(self) -> int:
        """The stride of the first map, of which the sides of images are multiples."""
        return self.strides[0]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {f"map_{name}": maps for name, maps in self.model.backbone(x).items()}

    def loss(self, outputs: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """The sum of torchvision's losses of proposals, boxes and masks, in which ignored boxes have no part; a scalar."""
        maps, images, size = self._maps(outputs, len(targets))
        wanted: list[dict[str, Tensor]] = []
        for t in targets:
            one = {"boxes": t["boxes"].to(size) * size, "labels": t["labels"] + 1}
            one |= {"masks": t["masks"]} if "masks" in t else {}
            wanted.append(one | ({"ignored_boxes": t["ignored_boxes"].to(size) * size} if "ignored_boxes" in t else {}))
        was = self.model.training
        self.model.rpn.train()
        self.model.roi_heads.train()
        try:
            proposals, losses = self.model.rpn(images, maps, wanted)
            proposals = [
                each[~ignored_boxes(each, target["ignored_boxes"], target["boxes"])] if "ignored_boxes" in target else each
                for each, target in zip(proposals, wanted, strict=True)
            ]
            _, more = self.model.roi_heads(maps, proposals, images.image_sizes, wanted)
        finally:
            self.model.rpn.train(was)
            self.model.roi_heads.train(was)
        return torch.stack([*losses.values(), *more.values()]).sum()

    def decode(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Decode raw outputs to normalized ``boxes``, ``scores``, ``labels`` and, for Mask R-CNN, ``masks``.

        As many proposals as detections are used, each for its most likely class only.
        """
        maps, images, size = self._maps(outputs)
        levels = list(maps.values())
        objectness, offsets = self.model.rpn.head(levels)
        anchors = self.model.rpn.anchor_generator(images, levels)[0]
        sure = torch.cat([rows_of(values, 1) for values in objectness], 1).sigmoid()
        placed = moved(anchors, torch.cat([rows_of(values, 4) for values in offsets], 1), (1.0, 1.0, 1.0, 1.0))
        proposals, stays, _ = keep_best((placed / size).clamp(0, 1), sure, self.detections)
        heads: Any = self.model.roi_heads
        seen = heads.box_head(self._pooled(levels, proposals * size, 7))
        logits, stretched = heads.box_predictor(seen)
        count = proposals.shape[1]
        logits = logits.unflatten(0, (-1, count))
        scores, labels = logits.softmax(2)[..., 1:].max(2)
        stretched = stretched.unflatten(0, (-1, count)).unflatten(2, (self.num_classes + 1, 4))
        own = stretched.gather(2, (labels + 1)[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        boxes = moved(proposals * size, own, heads.box_coder.weights) / size
        # if fewer proposals remain, suppressed ones fill up the tensor, and which ones depends on the runtime: their scores are set to 0
        scores = scores * (stays > 0).to(scores.dtype)
        kinds = functional.one_hot(labels, self.num_classes).to(scores.dtype) * scores.unsqueeze(2)
        boxes, scores, labels = keep_best(boxes.clamp(0, 1), kinds, self.detections)
        found = {"boxes": boxes, "scores": scores, "labels": labels}
        if heads.mask_predictor is not None:
            masks = heads.mask_predictor(heads.mask_head(self._pooled(levels, boxes * size, 14)))
            of_class = masks.unflatten(0, (-1, boxes.shape[1]))
            index = (labels + 1)[..., None, None, None].expand(-1, -1, 1, *masks.shape[2:])
            sides = tuple(int(side) * self.first_stride // _MASK_STRIDE for side in levels[0].shape[2:])
            found["masks"] = _pasted(of_class.gather(2, index).squeeze(2).sigmoid(), boxes, sides[0], sides[1])
        return found

    def _maps(self, outputs: dict[str, Tensor], count: int = 1) -> tuple[dict[str, Tensor], ImageList, Tensor]:
        """The maps by torchvision's names, ``count`` blank images (to decode, one: anchors are the same for all), and their size in pixels,
        width and height twice.
        """
        maps = {name.removeprefix("map_"): values for name, values in outputs.items()}
        first = next(iter(maps.values()))
        height, width = (int(side) * self.first_stride for side in first.shape[2:])
        images = ImageList(first.new_zeros(count, 1, height, width), [(height, width)] * count)
        return maps, images, torch.tensor([width, height, width, height], dtype=first.dtype, device=first.device)

    def _pooled(self, levels: Sequence[Tensor], boxes: Tensor, side: int) -> Tensor:
        """RoIAlign of each box on the map that suits its size, ``(N * K, C, side, side)``; boxes ``(N, K, 4)`` in pixels.

        T.-Y. Lin et al. 2017 (arXiv:1612.03144), equation 1. Each box is pooled from all maps and one result is selected, so that shapes do
        not depend on values.
        """
        count = boxes.shape[1]
        image = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device).repeat_interleave(count)
        rows = torch.cat([image.unsqueeze(1), boxes.reshape(-1, 4)], 1)
        area = ((rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2])).clamp_min(1.0)
        used = len(levels) - 1  # the coarsest is for proposals only
        least, most = (int(math.log2(self.strides[i])) for i in (0, used - 1))
        level = (4 + torch.log2(area.sqrt() / 224 + 1e-6)).floor().clamp(least, most) - least
        parts = [roi_align(maps, rows, side, 1 / self.strides[i], 2, False) for i, maps in enumerate(levels[:used])]
        chosen = functional.one_hot(level.long(), used).to(boxes.dtype)
        return (torch.stack(parts, 1) * chosen[..., None, None, None]).sum(1)


def _pasted(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Paste the masks of boxes ``(N, K, m, m)`` into maps of the whole image ``(N, K, height, width)``; normalized boxes."""
    y, x = ((torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5) / n for n in (height, width))
    left, top, right, bottom = boxes.reshape(-1, 4).unbind(1)
    across = (x - left[:, None]) / (right - left).clamp_min(1e-6)[:, None] * 2 - 1
    down = (y - top[:, None]) / (bottom - top).clamp_min(1e-6)[:, None] * 2 - 1
    grid = torch.stack([across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], 3)
    pasted = functional.grid_sample(masks.reshape(-1, 1, *masks.shape[2:]), grid, align_corners=False)
    return pasted.reshape(-1, boxes.shape[1], height, width)
