"""Reference statistics: what inputs and predictions looked like when the model was made, so that later ones can be compared with them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def input_values(images: Pixels) -> dict[str, npt.NDArray[np.float64]]:
    """One value an image on grey values from 0 to 1: ``brightness`` (mean), ``contrast`` (standard deviation) and ``sharpness`` (mean
    absolute step between neighbours).

    Args:
        images: as the model is fed them, uint8 ``(N, H, W, C)``.
    """
    grey = (images @ _LUMA if images.shape[3] == 3 else images[..., 0].astype(np.float32)) / 255
    # a model may take a single row or column of pixels, which has no step
    steps = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2) if grey.shape[axis] > 1]
    sharpness = np.mean(steps, axis=0) if steps else np.zeros(len(images))
    values = {"brightness": grey.mean(axis=(1, 2)), "contrast": grey.std(axis=(1, 2)), "sharpness": sharpness}
    return {name: np.asarray(v, dtype=np.float64) for name, v in values.items()}


def prediction_values(outputs: Outputs) -> dict[str, npt.NDArray[np.float64]]:
    """One value an image: ``confidence`` (of the top class), ``entropy`` (in nats) and ``predicted`` (index of the top class).

    Nothing where the model does not return ``logits`` ``(N, classes)``.
    """
    logits = outputs.get("logits")
    if logits is None or logits.ndim != 2:
        return {}
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    return {"confidence": p.max(axis=1), "entropy": -(p * log_p).sum(axis=1), "predicted": logits.argmax(axis=1).astype(np.float64)}


def reference_statistics(images: Pixels, files: Sequence[bytes], outputs: Outputs, class_names: Sequence[str]) -> dict[str, Any]:
    """Quantiles of inputs and predictions, and the share of each predicted class; JSON values.

    Args:
        images: validation images as the model is fed them, uint8 ``(N, H, W, C)``.
        files: some of the image files, for their size in pixels before resizing.
        outputs: the shipped model's on ``images``.
        class_names: in the order of the logits.
    """
    found = prediction_values(outputs)
    predicted = found.pop("predicted", None)
    statistics: dict[str, Any] = {
        "n": len(images),
        "levels": list(LEVELS),
        "inputs": _quantiles(input_values(images) | _file_sizes(files)),
        "predictions": _quantiles(found),
    }
    if predicted is not None:
        shares = np.bincount(predicted.astype(np.int64), minlength=len(class_names)) / len(predicted)
        statistics["class_mix"] = dict(zip(class_names, shares.round(6).tolist(), strict=False))
    return statistics


def _quantiles(values: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, list[float]]:
    return {name: np.quantile(v, LEVELS).round(6).tolist() for name, v in values.items()}


def _file_sizes(files: Sequence[bytes]) -> dict[str, npt.NDArray[np.float64]]:
    from PIL import Image

    sizes = []
    for data in files:
        with Image.open(io.BytesIO(data)) as image:  # reads the header only
            sizes.append(image.size)
    widths, heights = np.array(sizes, dtype=np.float64).T
    return {"width": widths, "height": heights}
