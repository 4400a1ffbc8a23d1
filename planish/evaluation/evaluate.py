"""Running a model over a split and evaluating it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.preprocessing import LARGEST_PIXELS, decode
from planish.data.tiling.merge import predict_tiled
from planish.data.tiling.tiles import ANY_SIDE
from planish.errors import ModelError
from planish.progress import Stage
from planish.task import one_class_each

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Predictor, Preprocessing
    from planish.measurement import Measurement
    from planish.task import SplitName, Task


@dataclass(frozen=True)
class Evaluated:
    """The outputs of a model on a split.

    Args:
        outputs: outputs by name, first axis N, in the order of the split's images.
        targets: targets of the split.
        task: task that computes the metrics.
    """

    outputs: Outputs
    targets: Any
    task: Task

    @property
    def logits(self) -> Any:
        """Logits of the images, or None; see ``class_logits``."""
        return class_logits(self.outputs, self.targets)

    @cached_property
    def metrics(self) -> dict[str, Measurement]:
        """Metrics with intervals, the primary one first; computed on first access, since those of boxes and masks take long."""
        return self.task.metrics(self.outputs, self.targets)


def class_logits(outputs: Outputs, targets: Any) -> Any:
    """Return the logits ``(N, classes)`` if the targets are class indices and there are logits, else None."""
    return outputs.get("logits") if one_class_each(targets) else None


def evaluate(
    predictor: Predictor, task: Task, split_name: SplitName, spec: InputSpec, preprocessing: Preprocessing, batch_size: int = 64
) -> Evaluated:
    """Run ``predictor`` over all images of a split.

    Raises:
        ModelError: the first axis of an output does not match the number of images.
    """
    split = task.split(split_name)
    images = split.images(spec, preprocessing)
    batches: list[Outputs] = []
    with Stage(f"evaluating on {split_name}", len(images)) as stage:
        for start in range(0, len(images), batch_size):
            batch = np.ascontiguousarray(images[start : start + batch_size])
            outputs = predictor(batch)
            for name, array in outputs.items():
                if len(array) != len(batch):
                    raise ModelError(
                        f"the model returned {len(array)} rows of {name!r} for {len(batch)} images",
                        "the first axis of each output is the image",
                    )
            batches.append(outputs)
            stage.advance(len(batch))
    joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    return Evaluated(joined, split.targets, task)


def evaluate_tiled(
    predictor: Predictor, task: Task, split_name: SplitName, spec: InputSpec, preprocessing: Preprocessing, size: int, overlap: float = 0.25
) -> Evaluated:
    """Run ``predictor`` over the tiles of all images of a split, at full resolution, and merge the outputs of each image.

    Metrics are of whole images and count all detections (``Task.uncapped``).

    Args:
        predictor: a model that predicts boxes, masks or label maps.
        task: task with the images.
        split_name: name of the split.
        spec: shape of the model's input.
        preprocessing: how a tile becomes the model's input.
        size: side of a tile in pixels.
        overlap: overlap of neighbouring tiles, relative to their size.

    Raises:
        ModelError: the model only makes predictions for whole images.
    """
    split = task.split(split_name)
    joined: dict[str, list[Any]] = {}
    with Stage(f"evaluating on tiles of {split_name}", len(split)) as stage:
        for i in range(len(split)):
            pixels = decode(split.file_bytes(i), spec.channels, ANY_SIDE, LARGEST_PIXELS)
            found = predict_tiled(predictor, pixels, spec, preprocessing, size=size, overlap=overlap)
            for name, values in found.items():
                joined.setdefault(name, []).append(values[0])
            stage.advance()
    for name in {"boxes", "scores", "labels"} & joined.keys():
        joined[name] = _filled_up(joined[name])
    # masks and label maps are as large as their images, and so of different sizes
    alike = {name: len({value.shape for value in values}) == 1 for name, values in joined.items()}
    outputs: dict[str, Any] = {name: np.stack(values) if alike[name] else values for name, values in joined.items()}
    return Evaluated(outputs, split.targets, task.uncapped())


def _filled_up(values: list[Any]) -> list[Any]:
    """Pad arrays ``(K, ...)`` with zeros to the length of the longest one; a score of 0 is no detection."""
    most = max(len(value) for value in values)
    return [np.concatenate([value, np.zeros((most - len(value), *value.shape[1:]), value.dtype)]) for value in values]
