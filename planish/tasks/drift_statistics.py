"""What is watched of a model's outputs, as numbers an image: what drift is looked for in. Asked by the task's name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.evaluation.metrics.classification import probabilities
from planish.tasks.localisation import told

if TYPE_CHECKING:
    from planish.artifact import Outputs


def statistics(task: str, outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    """Values by name, and one class, of each image; nothing where nothing is known of such a task.

    The values of classification are ``confidence`` (of the top class), ``entropy`` (in nats) and ``energy`` (how much speaks for any class
    at all; Liu et al. 2020, arXiv:2010.03759). Those of detection are how many ``objects`` are told and, where there are any, their mean
    ``object size`` (share of what the model was shown) and ``confidence``; the class is that of one of them, drawn by lot: images may be
    independent of one another, the objects in one are not. Those of semantic segmentation are the mean ``confidence`` and the ``share of``
    each class.

    Args:
        task: its name, as in a bundle.
        outputs: of the model, by name, first axis N.
        class_names: in the order of the outputs.
    """
    return _STATISTICS[task](outputs, class_names) if task in _STATISTICS else [({}, None)] * len(next(iter(outputs.values())))


def _of_classes(outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    logits = outputs["logits"].astype(np.float64)
    p = probabilities(logits)
    confidence = p.max(axis=1)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    energy = logits.max(axis=1) - np.log(confidence)
    return [
        ({"confidence": float(confidence[i]), "entropy": float(entropy[i]), "energy": float(energy[i])}, class_names[int(row.argmax())])
        for i, row in enumerate(logits)
    ]


def _of_objects(outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    found = []
    for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True):
        rows = told(scores)
        values, drawn = {"objects": float(len(rows))}, None
        if len(rows):
            left, top, right, bottom = np.clip(boxes[rows].astype(np.float64), 0, 1).T
            values["object size"] = float((np.maximum(0, right - left) * np.maximum(0, bottom - top)).mean())
            values["confidence"] = float(scores[rows].mean())
            lot = zlib.crc32(np.ascontiguousarray(scores).tobytes())  # the same for the same image
            drawn = class_names[int(labels[rows[lot % len(rows)]])]
        found.append((values, drawn))
    return found


def _of_regions(outputs: Outputs, class_names: Sequence[str]) -> list[tuple[dict[str, float], str | None]]:
    found: list[tuple[dict[str, float], str | None]] = []
    for labels, sure in zip(outputs["classes"], outputs["confidence"], strict=True):
        counts = np.bincount(labels.ravel(), minlength=len(class_names))
        shares = {f"share of {name}": float(count / labels.size) for name, count in zip(class_names, counts, strict=False)}
        found.append(({"confidence": float(sure.mean()), **shares}, None))
    return found


_STATISTICS: dict[str, Callable[[Any, Sequence[str]], list[tuple[dict[str, float], str | None]]]] = {
    "classification": _of_classes,
    "detection": _of_objects,
    "instance": _of_objects,
    "semantic": _of_regions,
}
