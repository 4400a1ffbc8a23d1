"""Run a model over a split and score it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.preprocessing import decode
from planish.data.tiling.merge import predict_tiled
from planish.data.tiling.tiles import ANY_SIDE, MAX_PIXELS
from planish.errors import ModelError
from planish.progress import Stage
from planish.task import one_class_each

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Predictor, Preprocessing
    from planish.measurement import Measurement
    from planish.task import SplitName, Task


@dataclass(frozen=True)
class Evaluated:
    """What a model said about a split.

    Args:
        outputs: by name, first axis N, in the order of the split's images.
        targets: as the split gives them.
        task: that judges.
    """

    outputs: Outputs
    targets: Any
    task: Task

    @property
    def logits(self) -> Any:
        """See ``class_logits``."""
        return class_logits(self.outputs, self.targets)

    @cached_property
    def metrics(self) -> dict[str, Measurement]:
        """With intervals, the primary one first; computed when they are asked for: those of boxes and masks take a while."""
        return self.task.metrics(self.outputs, self.targets)


def class_logits(outputs: Outputs, targets: Any) -> Any:
    """The logits of images with one class each, ``(N, classes)``; None where outputs or targets are something else."""
    return outputs.get("logits") if one_class_each(targets) else None


def evaluate(
    predictor: Predictor, task: Task, split_name: SplitName, spec: InputSpec, preprocessing: Preprocessing, batch_size: int = 64
) -> Evaluated:
    """Run ``predictor`` over all images of a split.

    Raises:
        ModelError: it returns another number of rows than it was given images.
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
    """The same on large images, each read as it lies on disk, answered tile by tile and put together: metrics are of whole images,
    and count all detections (``Task.uncapped``).

    Args:
        predictor: of boxes, masks or label maps.
        task: the images.
        split_name: which of them.
        spec: what the model is fed.
        preprocessing: how a tile becomes that.
        size: of a tile in pixels.
        overlap: share of a tile that its neighbour shows as well.

    Raises:
        ModelError: the model says something of whole images only.
    """
    split = task.split(split_name)
    joined: dict[str, list[Any]] = {}
    with Stage(f"evaluating on tiles of {split_name}", len(split)) as stage:
        for i in range(len(split)):
            pixels = decode(split.file_bytes(i), spec.channels, ANY_SIDE, MAX_PIXELS)
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
    """Arrays ``(K, ...)`` with as many rows as the longest one, zeros (a score of 0 is no detection) at the end."""
    most = max(len(value) for value in values)
    return [np.concatenate([value, np.zeros((most - len(value), *value.shape[1:]), value.dtype)]) for value in values]
