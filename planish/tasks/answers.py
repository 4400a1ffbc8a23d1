"""What a service says of an image: a task's outputs as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.run_lengths import run_lengths
from planish.errors import BundleError
from planish.evaluation.classification_metrics import probabilities

if TYPE_CHECKING:
    from planish.artifact import Outputs

LEAST = 0.3  # of the confidence of an object that is told
_MASK_SIDE = 320  # pixels of a mask's longer side, at most


def answers(
    task: str, outputs: Outputs, class_names: Sequence[str], top: int = 5, sizes: Sequence[tuple[int, int]] | None = None
) -> list[dict[str, Any]]:
    """One object an image.

    For classification ``{"class": name, "confidence": 0..1, "classes": [{"name", "confidence"}, ...]}``. For detection ``{"objects":
    [{"class", "confidence", "box": [left, top, right, bottom]}, ...]}``, the surest first, boxes as shares of the image's sides and,
    where its size is known, in pixels as ``box_pixels``; for instances each with a ``mask`` in COCO's run lengths. For semantic
    segmentation ``{"regions": [{"class", "share", "confidence", "mask"}, ...]}``, the largest first.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
        top: at most that many classes, the surest first.
        sizes: height and width of each image as it was sent.

    Raises:
        BundleError: nothing is known of such a task here.
    """
    if task not in _ANSWERS:
        raise BundleError(f"the bundle is for the task {task!r}", f"answers are known for {', '.join(_ANSWERS)}", "update Planish")
    return _ANSWERS[task](outputs, class_names, top, sizes)


def _classes(outputs: Outputs, class_names: Sequence[str], top: int, sizes: Any) -> list[dict[str, Any]]:
    found = []
    for row in probabilities(outputs["logits"]):
        surest = [{"name": class_names[i], "confidence": float(row[i])} for i in np.argsort(-row, kind="stable")[:top]]
        found.append({"class": surest[0]["name"], "confidence": surest[0]["confidence"], "classes": surest})
    return found


def _objects(outputs: Outputs, class_names: Sequence[str], top: int, sizes: Any) -> list[dict[str, Any]]:
    found = []
    for image in range(len(outputs["scores"])):
        objects = []
        for row in np.flatnonzero(outputs["scores"][image] > LEAST):
            box = [float(v) for v in np.clip(outputs["boxes"][image][row], 0, 1)]
            one = {"class": class_names[int(outputs["labels"][image][row])], "confidence": float(outputs["scores"][image][row]), "box": box}
            if sizes is not None:
                height, width = sizes[image]
                one["box_pixels"] = [round(v * side, 1) for v, side in zip(box, (width, height, width, height), strict=True)]
            if "masks" in outputs:
                one["mask"] = run_lengths(_enlarged(outputs["masks"][image][row], None if sizes is None else sizes[image]) > 0.5)
            objects.append(one)
        found.append({"objects": objects})
    return found


def _regions(outputs: Outputs, class_names: Sequence[str], top: int, sizes: Any) -> list[dict[str, Any]]:
    found = []
    for labels, sure in zip(outputs["classes"], outputs["confidence"], strict=True):
        regions: list[dict[str, Any]] = []
        for label in np.unique(labels):
            inside = labels == label
            share, confidence = float(inside.mean()), float(sure[inside].mean())
            regions.append({"class": class_names[int(label)], "share": share, "confidence": confidence, "mask": run_lengths(inside)})
        found.append({"regions": sorted(regions, key=lambda region: -region["share"])})
    return found


def _enlarged(mask: Any, size: tuple[int, int] | None) -> Any:
    """A map of probabilities, brought to the size of the image, or as near as an answer has room for."""
    from PIL import Image

    height, width = mask.shape if size is None else size
    factor = min(1.0, _MASK_SIDE / max(height, width))
    wanted = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(np.asarray(mask, np.float32)).resize(wanted, Image.Resampling.BILINEAR))


_ANSWERS: dict[str, Callable[[Outputs, Sequence[str], int, Any], list[dict[str, Any]]]] = {
    "classification": _classes,
    "detection": _objects,
    "instance": _objects,
    "semantic": _regions,
}
