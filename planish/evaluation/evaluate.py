"""Run a model over a split and score it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import ModelError
from planish.progress import Stage

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

    @cached_property
    def metrics(self) -> dict[str, Measurement]:
        """With intervals, the primary one first; computed when they are asked for: those of boxes and masks take a while."""
        return self.task.metrics(self.outputs, self.targets)


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
