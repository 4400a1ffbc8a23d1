"""Reference values for drift: statistics of the inputs and predictions at the time the model was made, to compare later ones with."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.data.preprocessing import FORMATS
from planish.tasks.drift_statistics import statistics

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_DIGITS = 6  # decimals that all values are rounded to, so that equal images have equal values
CLASS = "class"
LARGEST = 1e12  # largest absolute value of an image's statistics, so that sums of squares stay finite


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DriftReference:
    """The content of ``reference.json``: statistics of a model's inputs and predictions on validation images, the reference for drift.

    Args:
        values: one per image, by name of the statistic; see ``image_values``.
        class_counts: number of images by predicted class; empty where the task does not predict one class per image.
    """

    values: dict[str, list[Annotated[float, Field(ge=-LARGEST, le=LARGEST)]]]
    class_counts: dict[str, Annotated[int, Field(ge=0, le=LARGEST)]] = Field(default_factory=dict)
    schema_version: Literal[1] = 1


def image_values(
    task: str, class_names: Sequence[str], images: Pixels, outputs: Outputs, files: Sequence[bytes] = ()
) -> list[dict[str, Any]]:
    """The statistics that drift is detected in: values by name, one dict per image.

    Of grey values from 0 to 1: ``brightness`` (mean), ``contrast`` (standard deviation) and ``sharpness`` (mean absolute difference of
    neighbouring pixels). If ``files`` are given, also ``width`` and ``height`` in pixels. The other statistics, and whether an image has
    a ``class``, depend on the task; see ``planish.tasks.drift_statistics``.

    Args:
        task: name of the task.
        class_names: in the order of the outputs.
        images: inputs of the model, uint8 ``(N, H, W, C)``.
        outputs: of the model for these images.
        files: contents of the N image files, or empty.
    """
    grey = (images @ _LUMA if images.shape[3] == 3 else images[..., 0].astype(np.float32)) / 255
    # an input may be a single row or column, which has no neighbours along one axis
    steps = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2) if grey.shape[axis] > 1]
    sharpness = np.mean(steps, axis=0) if steps else np.zeros(len(images))
    found = []
    for i, (of_outputs, named) in enumerate(statistics(task, outputs, class_names)):
        values = {"brightness": grey[i].mean(), "contrast": grey[i].std(), "sharpness": sharpness[i]}
        if files:
            values["width"], values["height"] = _size(files[i])
        one: dict[str, Any] = {name: round(float(value), _DIGITS) for name, value in (values | of_outputs).items()}
        if named is not None:
            one[CLASS] = named
        found.append(one)
    return found


def reference_values(images: Iterable[dict[str, Any]], class_names: Sequence[str]) -> DriftReference:
    """The reference for drift.

    Args:
        images: ``image_values`` of validation images.
        class_names: in the order of the outputs.
    """
    values: dict[str, list[float]] = defaultdict(list)
    counts = Counter[str]()
    for image in images:
        for name, value in image.items():
            if name == CLASS:
                counts[value] += 1
            elif abs(value) <= LARGEST:  # False for NaN too
                values[name].append(value)
    return DriftReference(values=dict(values), class_counts={name: counts[name] for name in class_names} if counts else {})


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header only
        return image.size
