"""The images on which both models differ, small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.report.run_folder import Disagreements

_PNG_SIDE = 64  # larger images are shrunk and, since a photo's PNG is ten times its JPEG, sent as JPEG
_JPEG_SIDE = 112
_MOST = 18
_BUDGET = 240_000  # bytes of base64 over all groups; keeps the page well below 600 kB


@dataclass(frozen=True)
class Thumbnail:
    """One image: a data URI, and what each model said of it (class names, confidence in %)."""

    source: str
    key: str
    pixelated: bool
    target: str
    before: str
    after: str
    before_confidence: float
    after_confidence: float


def group(found: Disagreements, class_names: list[str]) -> tuple[list[Thumbnail], list[Thumbnail], list[Thumbnail]]:
    """Images that the chosen model fixed, that it broke, and that both have wrong; those it is surest of first."""
    fixed, broke = found.chosen == found.targets, found.baseline == found.targets
    order = np.argsort(-found.chosen_confidence, kind="stable")
    wanted = [[int(i) for i in order if mask[i]][:_MOST] for mask in (fixed, broke & ~fixed, ~fixed & ~broke)]
    groups: tuple[list[Thumbnail], list[Thumbnail], list[Thumbnail]] = ([], [], [])
    spent = 0
    for place in range(_MOST):  # in turns, so that a tight budget leaves some of each group
        for chosen, members in zip(wanted, groups, strict=True):
            if place >= len(chosen) or spent > _BUDGET:
                continue
            members.append(_thumbnail(found, chosen[place], class_names))
            spent += len(members[-1].source)
    return groups


def _thumbnail(found: Disagreements, index: int, class_names: list[str]) -> Thumbnail:
    pixels = found.pixels[index]
    return Thumbnail(
        source=data_uri(pixels),
        key=str(found.keys[index]),
        pixelated=is_small(pixels),
        target=class_names[found.targets[index]],
        before=class_names[found.baseline[index]],
        after=class_names[found.chosen[index]],
        before_confidence=_percent(found.baseline_confidence[index]),
        after_confidence=_percent(found.chosen_confidence[index]),
    )


def _percent(confidence: float) -> float:
    return 100 * float(confidence)


def is_small(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether an image ``(H, W, C)`` is so small that it is shown pixel by pixel."""
    return bool(max(pixels.shape[:2]) <= _PNG_SIDE)


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Pixels ``(H, W, C)`` as a data URI: PNG up to 64 pixels a side, else JPEG of at most 112."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = is_small(pixels)
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
        image.save(buffer, "JPEG", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
