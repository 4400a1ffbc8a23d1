"""Drawing of boxes with class names, masks and label maps into images. Uses Pillow and numpy, and pycocotools for encoded masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from planish.data.targets.objects import Objects

Pixels = npt.NDArray[np.uint8]

# Colours that can be distinguished with any kind of colour vision (M. Okabe and K. Ito, 2008), then lighter and darker variants.
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167), (150, 150, 150),
    (255, 200, 90), (150, 215, 255), (90, 210, 175), (160, 150, 30), (90, 160, 220), (255, 150, 80), (235, 170, 205), (220, 220, 220),
)  # fmt: skip
LEAST_SCORE = 0.3  # minimum confidence of detections that are reported and drawn
_SIDE = 320  # smaller images are enlarged by an integer factor to at most this side
_VEIL = 0.45  # opacity of masks


def draw_objects(image: Pixels, objects: Objects, class_names: Sequence[str]) -> Pixels:
    """Draw the annotated objects of an image; crowds and difficult objects are marked in their name."""
    masks = None
    if objects.masks is not None:
        from pycocotools import mask as coco

        masks = [coco.decode(lengths) for lengths in objects.masks]
    marks = np.where(objects.crowd, " (crowd)", np.where(objects.ignored, " (difficult)", ""))
    names = [class_names[label] + str(mark) for label, mark in zip(objects.labels, marks, strict=True)]
    return _drawn(image, objects.boxes, objects.labels, names, masks)


def draw_detections(image: Pixels, found: Mapping[str, Any], class_names: Sequence[str], least: float = LEAST_SCORE) -> Pixels:
    """Draw detections with a score above ``least``: ``boxes`` ``(K, 4)``, ``scores``, ``labels``, optionally ``masks`` ``(K, h, w)``."""
    rows = [int(i) for i in np.flatnonzero(np.asarray(found["scores"]) > least)]
    names = [f"{class_names[int(found['labels'][i])]} {100 * float(found['scores'][i]):.0f}" for i in rows]
    masks = [np.asarray(found["masks"][i]) for i in rows] if "masks" in found else None
    return _drawn(image, np.asarray(found["boxes"])[rows], np.asarray(found["labels"])[rows], names, masks)


def draw_labels(image: Pixels, labels: Any, class_names: Sequence[str]) -> Pixels:
    """Overlay a label map ``(H, W)`` on the image, with a legend at its top; class 0 and ignored pixels stay transparent."""
    canvas = _enlarged(image)
    shown = np.asarray(Image.fromarray(np.asarray(labels, np.uint8)).resize(canvas.size, Image.Resampling.NEAREST))
    values = np.asarray(canvas, np.float32).copy()
    present = [int(c) for c in np.unique(shown) if 0 < c < len(class_names)]
    for c in present:
        values[shown == c] = (1 - _VEIL) * values[shown == c] + _VEIL * np.array(colour(c))
    picture = Image.fromarray(values.astype(np.uint8))
    pen, font = ImageDraw.Draw(picture), _font()
    x, y = 3, 3
    for c in present:
        width = pen.textlength(class_names[c], font) + 8
        if x + width > picture.width:
            x, y = 3, y + 16
        _label(pen, (x, y), class_names[c], colour(c), font)
        x += int(width) + 3
    return np.asarray(picture)


def colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class."""
    return PALETTE[label % len(PALETTE)]


def _drawn(image: Pixels, boxes: Any, labels: Any, names: Sequence[str], masks: Sequence[Any] | None) -> Pixels:
    canvas = _enlarged(image)
    if masks:
        values = np.asarray(canvas, np.float32).copy()
        for label, mask in zip(labels, masks, strict=True):
            enlarged = Image.fromarray(np.asarray(mask, np.float32)).resize(canvas.size, Image.Resampling.BILINEAR)
            inside = np.asarray(enlarged) > 0.5
            values[inside] = (1 - _VEIL) * values[inside] + _VEIL * np.array(colour(int(label)))
        canvas = Image.fromarray(values.astype(np.uint8))
    pen, font = ImageDraw.Draw(canvas), _font()
    corners = np.asarray(boxes, np.float64).reshape(-1, 4) * (canvas.width, canvas.height, canvas.width, canvas.height)
    for box, label in zip(corners, labels, strict=True):
        left, top, right, bottom = (float(v) for v in box)
        pen.rectangle((left, top, max(left + 1, right - 1), max(top + 1, bottom - 1)), outline=(0, 0, 0), width=4)
        pen.rectangle((left + 1, top + 1, max(left + 2, right - 2), max(top + 2, bottom - 2)), outline=colour(int(label)), width=2)
    for box, label, name in zip(corners, labels, names, strict=True):  # on top of all boxes
        _label(pen, (float(box[0]), max(0.0, float(box[1]) - 14)), name, colour(int(label)), font)
    return np.asarray(canvas)


def _label(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, ground: tuple[int, int, int], font: Any) -> None:
    width = pen.textlength(text, font)
    x = max(0.0, min(place[0], pen.im.size[0] - width - 5))
    pen.rectangle((x, place[1], x + width + 4, place[1] + 14), fill=ground)
    pen.text((x + 2, place[1]), text, fill=(0, 0, 0), font=font)


def _enlarged(image: Pixels) -> Image.Image:
    colours = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    factor = max(1, _SIDE // max(image.shape[:2]))
    size = image.shape[1] * factor, image.shape[0] * factor
    return Image.fromarray(np.ascontiguousarray(colours)).resize(size, Image.Resampling.BICUBIC)


def _font() -> Any:
    return ImageFont.load_default(12)
