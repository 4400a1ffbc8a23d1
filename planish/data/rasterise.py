"""What an image holds, as the tensors that a loss takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from planish.data.objects import Objects


def object_targets(targets: Sequence[Objects], height: int, width: int, *, masks: bool) -> list[dict[str, Tensor]]:
    """Of each image ``boxes`` ``(M, 4)``, ``labels`` ``(M,)`` and ``masks`` uint8 ``(M, height, width)``; crowds are left out."""
    found = []
    for objects in targets:
        single = np.flatnonzero(~objects.crowd)
        one = {"boxes": torch.from_numpy(objects.boxes[single].astype(np.float32)), "labels": torch.from_numpy(objects.labels[single])}
        if masks:
            one["masks"] = _masks(objects, single, height, width)
        found.append(one)
    return found


def label_targets(targets: Sequence[Any], height: int, width: int) -> Tensor:
    """Label maps at the size that a network is fed, int64 ``(n, height, width)``: the nearest pixel's."""
    maps = [np.asarray(labels, np.uint8) for labels in targets]
    resized = [
        m if m.shape == (height, width) else np.asarray(Image.fromarray(m).resize((width, height), Image.Resampling.NEAREST)) for m in maps
    ]
    return torch.from_numpy(np.stack(resized).astype(np.int64))


def _masks(objects: Objects, rows: Any, height: int, width: int) -> Tensor:
    from pycocotools import mask as coco

    if not len(rows):
        return torch.zeros(0, height, width, dtype=torch.uint8)
    assert objects.masks is not None
    decoded = torch.from_numpy(coco.decode([objects.masks[int(i)] for i in rows])).permute(2, 0, 1)
    if tuple(decoded.shape[1:]) == (height, width):
        return decoded.contiguous()
    resized = torch.nn.functional.interpolate(decoded[None].float(), (height, width), mode="area")[0]
    return (resized >= 0.5).to(torch.uint8)
