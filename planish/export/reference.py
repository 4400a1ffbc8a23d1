"""Reference values: what inputs and predictions looked like when the model was made, so that later ones can be compared with them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.classification_metrics import probabilities

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TOLD = 0.3  # confidence from which on an object is told
_DIGITS = 6  # the same for all, so that equal images have equal values


def image_values(images: Pixels, outputs: Outputs, files: Sequence[bytes] = ()) -> dict[str, list[float]]:
    """What drift is looked for in, one value an image.

    On grey values from 0 to 1: ``brightness`` (mean), ``contrast`` (standard deviation) and ``sharpness`` (mean absolute step between
    neighbours). Where files are given ``width`` and ``height``, in pixels. Where there are ``logits`` ``(N, classes)``: ``confidence``
    (of the top class), ``entropy`` (in nats), ``energy`` (how much speaks for any class at all; Liu et al. 2020, arXiv:2010.03759). Where
    there are ``scores`` of boxes: how many ``objects`` are told, their mean ``size`` (share of the image) and ``confidence``. Where
    there is a ``confidence`` a pixel: its mean.

    Args:
        images: as the model is fed them, uint8 ``(N, H, W, C)``.
        outputs: the model's on them.
        files: the image files they came from, N or none.
    """
    grey = (images @ _LUMA if images.shape[3] == 3 else images[..., 0].astype(np.float32)) / 255
    # a model may take a single row or column of pixels, which has no step
    steps = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2) if grey.shape[axis] > 1]
    sharpness = np.mean(steps, axis=0) if steps else np.zeros(len(images))
    values = {"brightness": grey.mean(axis=(1, 2)), "contrast": grey.std(axis=(1, 2)), "sharpness": sharpness}
    if files:
        widths, heights = np.array([_size(data) for data in files]).T
        values |= {"width": widths, "height": heights}
    if "logits" in outputs and outputs["logits"].ndim == 2:
        logits = outputs["logits"].astype(np.float64)
        p = probabilities(logits)
        values["confidence"] = p.max(axis=1)
        values["entropy"] = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        values["energy"] = logits.max(axis=1) - np.log(values["confidence"])
    elif "scores" in outputs:
        values |= _of_objects(outputs)
    elif "confidence" in outputs:
        values["confidence"] = outputs["confidence"].reshape(len(images), -1).mean(axis=1)
    return {name: [round(float(value), _DIGITS) for value in found] for name, found in values.items()}


def reference_values(images: Pixels, files: Sequence[bytes], outputs: Outputs, class_names: Sequence[str]) -> dict[str, Any]:
    """``values`` of each image by name, and ``classes``: how often each was predicted; as JSON.

    Args:
        images: validation images as the model is fed them, uint8 ``(N, H, W, C)``.
        files: the image files they came from.
        outputs: the shipped model's on ``images``.
        class_names: in the order of the logits.
    """
    found: dict[str, Any] = {"values": image_values(images, outputs, files)}
    if "logits" in outputs:
        counts = np.bincount(outputs["logits"].argmax(axis=1), minlength=len(class_names))
        found["classes"] = dict(zip(class_names, counts.tolist(), strict=True))
    return found


def _of_objects(outputs: Outputs) -> dict[str, Any]:
    told = outputs["scores"] > _TOLD
    count = np.maximum(1, told.sum(axis=1))
    sides = np.clip(outputs["boxes"][..., 2:] - outputs["boxes"][..., :2], 0, 1)
    areas = (sides.prod(axis=2) * told).sum(axis=1) / count
    return {"objects": told.sum(axis=1), "size": areas, "confidence": (outputs["scores"] * told).sum(axis=1) / count}


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:  # reads the header only
        return image.size
