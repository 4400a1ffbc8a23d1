"""Images with targets and predictions drawn in: read from ``pictures.npz`` and arranged in rows on a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.errors import BundleError
from planish.files.atomic import read_arrays
from planish.measurement import Metric, in_words

_NAMES = ("rows", "changed", "models", "scores", "truth", "drawn")
_RULE = "rows and changed are (k,), models (m,), scores (k, m), truth uint8 (k, h, w, 3), drawn uint8 (k, m, h, w, 3)"
_SIDE = 420  # largest side of an image on the page, in pixels: a third of the page's width on a large screen
_BUDGET = 900_000  # bytes of base64


@dataclass(frozen=True)
class Pictures:
    """Images with boxes, masks or classes drawn in; see ``planish.runs.pictures.write_pictures``.

    Args:
        rows: index of each image in the predictions ``(K,)``.
        changed: whether the image was selected because two models differ on it ``(K,)``.
        models: names of the models ``(M,)``.
        scores: metric of each image alone, see ``Task.scores`` ``(K, M)``.
        truth: images with the targets drawn in ``(K, h, w, 3)``.
        drawn: images with each model's predictions drawn in ``(K, M, h, w, 3)``.
    """

    rows: npt.NDArray[np.int64]
    changed: npt.NDArray[np.bool_]
    models: npt.NDArray[np.str_]
    scores: npt.NDArray[np.float64]
    truth: npt.NDArray[np.uint8]
    drawn: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One image on a page: its title, its score (None for the targets), a data URI, and a text for screen readers."""

    title: str
    score: str | None
    source: str
    alt: str


@dataclass(frozen=True)
class PictureRow:
    """One image with its targets, and with each model's predictions."""

    key: str
    pictures: list[Picture]


@dataclass(frozen=True)
class PictureGroup:
    """Images selected for the same reason, which the title and text explain."""

    title: str
    text: str
    rows: list[PictureRow]


def read_pictures(path: Path, images: int) -> Pictures | None:
    """Read the images that a run or an evaluation stored; None if there are none.

    Args:
        path: of the file.
        images: number of images with predictions.

    Raises:
        BundleError: the file cannot be read, or its arrays have the wrong shape or type.
    """
    if not path.exists():
        return None
    stored = read_arrays(path, _NAMES)
    found = Pictures(**{name: stored[name] for name in _NAMES})
    k, m = len(found.rows), len(found.models)
    shapes = (found.changed.shape, found.scores.shape, found.truth.shape[:1], found.drawn.shape)
    side = found.truth.shape[1:]
    fits = len(side) == 3 and side[2] == 3 and shapes == ((k,), (k, m), (k,), (k, m, *side))
    if not fits or found.truth.dtype != np.uint8 or found.drawn.dtype != np.uint8 or not m:
        raise _broken(path, f"the arrays do not fit: truth {found.truth.shape}, drawn {found.drawn.shape}")
    if found.rows.dtype.kind not in "iu" or (k and not 0 <= found.rows.min() <= found.rows.max() < images):
        raise _broken(path, "it has rows that the predictions do not")
    return found if k else None


def _broken(path: Path, why: str) -> BundleError:
    return BundleError(f"{path}: {why}", _RULE, "make it again: planish optimize --resume, or planish evaluate --out")


def shown(found: Pictures | None, keys: Any, metric: str | Metric) -> list[PictureGroup]:
    """Group the images for a page, as many as fit its size budget.

    Args:
        found: the stored images.
        keys: names of all images of the split.
        metric: of the scores; a name if it is in percent.
    """
    metric = Metric.named(metric)
    if found is None:
        return []
    two = len(found.models) > 1
    changed = f"The {in_words(metric.name)} of these, each taken alone, changed most from the original to the chosen model."
    differing = PictureGroup("Most different", changed, [])
    worst = PictureGroup("Worst", f"On these, each taken alone, the {'chosen ' if two else ''}model does worst.", [])
    spent = 0
    for i in _in_turns(found.changed):
        row = _row(found, i, str(keys[found.rows[i]]), metric)
        spent += sum(len(picture.source) for picture in row.pictures)
        if spent > _BUDGET and (differing.rows or worst.rows):
            break
        (differing if found.changed[i] else worst).rows.append(row)
    return [group for group in (differing, worst) if group.rows]


def _in_turns(changed: npt.NDArray[np.bool_]) -> list[int]:
    """Return the indices of the images, alternating between both groups, so that a small budget still includes some of each."""
    mine, others = np.flatnonzero(changed), np.flatnonzero(~changed)
    rank = np.concatenate([np.arange(len(mine)), np.arange(len(others))])
    return [int(i) for i in np.concatenate([mine, others])[np.argsort(rank, kind="stable")]]


def _row(found: Pictures, i: int, key: str, metric: Metric) -> PictureRow:
    pictures = [Picture("In the data", None, picture_uri(found.truth[i]), f"{key}: what is in the image as the data says")]
    for j, model in enumerate(map(str, found.models)):
        score = metric.scale * float(found.scores[i, j])
        text = f"{score:.0f} %" if metric.unit == "%" else metric.text(float(found.scores[i, j]))
        who = model if model == "model" else f"{model} model"
        alt = f"{key}: what the {who} says; {in_words(metric.name)} of this image {text}"
        pictures.append(Picture(who.capitalize(), text, picture_uri(found.drawn[i, j]), alt))
    return PictureRow(key, pictures)


def picture_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Encode pixels ``(h, w, 3)`` as a data URI: a JPEG without chroma subsampling, which would blur thin coloured lines."""
    image = Image.fromarray(pixels)
    if max(image.size) > _SIDE:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=78, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
