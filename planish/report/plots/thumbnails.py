"""Small images embedded in a page: those on which two models differ, errors of a model, a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.evaluation.metrics.classification import probabilities
from planish.report.recomputation.run_folder import Disagreements

_PNG_SIDE = 64  # larger images are downscaled and stored as JPEG, since the PNG of a photo is ten times as large
_JPEG_SIDE = 112
_MOST = 18
_BUDGET, _MISTAKES_BUDGET = 240_000, 120_000  # bytes of base64 for all groups, and for errors; keeps the page below 600 kB
_SHEET_SIDE = 720
_SHEET_BYTES = 90_000  # up to this size a contact sheet remains a PNG


@dataclass(frozen=True)
class Thumbnail:
    """One image: a data URI, the target, and both models' predictions (class names, confidence in %)."""

    source: str
    key: str
    pixelated: bool
    target: str
    before: str
    after: str
    before_confidence: float
    after_confidence: float


@dataclass(frozen=True)
class Mistake:
    """One misclassified image: a data URI, the names of the target and predicted classes, and the confidence in %."""

    source: str
    key: str
    pixelated: bool
    target: str
    said: str
    confidence: float


def group(found: Disagreements, class_names: list[str]) -> tuple[list[Thumbnail], list[Thumbnail], list[Thumbnail]]:
    """Return the images that only the chosen model gets right, only the baseline, and neither; by descending confidence of the former."""
    fixed, broke = found.chosen == found.targets, found.baseline == found.targets
    order = np.argsort(-found.chosen_confidence, kind="stable")
    wanted = [[int(i) for i in order if mask[i]][:_MOST] for mask in (fixed, broke & ~fixed, ~fixed & ~broke)]
    groups: tuple[list[Thumbnail], list[Thumbnail], list[Thumbnail]] = ([], [], [])
    spent = 0
    for place in range(_MOST):  # alternate between groups, so that a small budget still includes some of each
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


def mistakes(
    pixels: npt.NDArray[np.uint8], rows: Sequence[int], logits: npt.NDArray[Any], targets: Any, keys: Any, class_names: Sequence[str]
) -> list[Mistake]:
    """Return images that a model misclassifies, as many as fit the page's size budget.

    Args:
        pixels: the misclassified images ``(K, H, W, C)``.
        rows: their indices in the arrays below ``(K,)``.
        logits: of all images ``(N, classes)``.
        targets: class indices ``(N,)``.
        keys: names of the images ``(N,)``.
        class_names: in the order of the logits.
    """
    found: list[Mistake] = []
    for image, row in zip(pixels, rows, strict=True):
        if sum(len(mistake.source) for mistake in found) > _MISTAKES_BUDGET:
            break
        probs = probabilities(logits[row])
        said = int(probs.argmax())
        small = max(image.shape[:2]) <= _PNG_SIDE
        found.append(Mistake(data_uri(image), str(keys[row]), small, class_names[targets[row]], class_names[said], _percent(probs[said])))
    return found


def sheet_uri(file: Path) -> str | None:
    """Return a contact sheet as a data URI, or None if the file does not exist; a large one is downscaled and stored as JPEG."""
    if not file.is_file():
        return None
    if file.stat().st_size <= _SHEET_BYTES:
        return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
    with Image.open(file, formats=("PNG",)) as image:
        image.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _percent(confidence: float) -> float:
    return 100 * float(confidence)


def is_small(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether an image ``(H, W, C)`` is so small that it is shown enlarged, with visible pixels."""
    return bool(max(pixels.shape[:2]) <= _PNG_SIDE)


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode pixels ``(H, W, C)`` as a data URI: a PNG up to 64 pixels per side, else a JPEG of at most 112."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = is_small(pixels)
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
        image.save(buffer, "JPEG", quality=85)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"
