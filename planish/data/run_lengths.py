"""Masks in COCO's compressed run lengths, written with numpy alone: a service answers with them."""

from __future__ import annotations

from typing import Any

import numpy as np


def run_lengths(mask: Any) -> dict[str, Any]:
    """``{"size": [height, width], "counts": text}`` of a mask ``(height, width)``; what ``pycocotools.mask.encode`` gives.

    Lengths of runs of 0 and 1 in turn, column by column, the first of 0. From the fourth on each is told as its difference from the one
    before the last; five bits a letter, the lowest first, a sixth where more follow.
    """
    flat = np.asarray(mask, bool).ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, len(flat)]).tolist()
    if len(flat) and flat[0]:
        counts = [0, *counts]
    text = bytearray()
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            letter = value & 0x1F
            value >>= 5
            more = value != (-1 if letter & 0x10 else 0)
            text.append((letter | 0x20 if more else letter) + 48)
            if not more:
                break
    return {"size": list(np.shape(mask)), "counts": text.decode()}
