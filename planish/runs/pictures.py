"""``pictures.npz``: images with drawn predictions, those on which two models differ most and those with the worst scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.files.atomic import write_arrays
from planish.task import metric_of

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Outputs, Pixels, Preprocessing
    from planish.task import Split, Task

SHOWN = 12
_LARGEST_SIDE = 640  # of a saved picture, in pixels
_MAX_IMAGES = 60  # images that are scored individually, for each of the two criteria

Floats = npt.NDArray[np.float64]


def write_pictures(
    path: Path,
    task: Task,
    split: Split,
    spec: InputSpec,
    preprocessing: Preprocessing,
    outputs_by_model: Mapping[str, Outputs],
    scores: Mapping[str, Floats],
) -> bool:
    """Draw the targets and each model's predictions for selected images; nothing is written if the task cannot draw them.

    The file contains ``rows`` (K,): indices of the images in the split; ``changed`` (K,): whether the image was selected because the first
    and the last model differ most on it, otherwise it is one of the worst of the last model; ``models`` (M,): names of the models;
    ``scores`` (K, M): ``Task.scores`` of each image evaluated alone; ``truth`` (K, h, w, 3) and ``drawn`` (K, M, h, w, 3), uint8.

    Args:
        path: output file; an existing one is replaced, or deleted if there is nothing to draw.
        task: the task, which draws.
        split: the split with the images.
        spec: size of the images that are drawn on.
        preprocessing: preprocessing of the images that are drawn on.
        outputs_by_model: outputs of one or two models on the whole split, by the model's name.
        scores: ``Task.scores`` ``(N,)`` of each model, by its name.

    Returns:
        Whether pictures were written.
    """
    path.unlink(missing_ok=True)
    images = split.images(spec, preprocessing)
    if not len(images) or task.draw(np.asarray(images[:1]), None, [split.targets[0]]) is None:
        return False
    album = _DrawnImages(task, split, images, outputs_by_model)
    names = list(outputs_by_model)
    by_change = np.argsort(-np.abs(scores[names[0]] - scores[names[-1]]), kind="stable")[:_MAX_IMAGES]
    sign = 1 if metric_of(task).higher_is_better else -1
    by_score = np.argsort(sign * scores[names[-1]], kind="stable")[:_MAX_IMAGES]
    differ = {int(i): abs(album.alone(int(i))[0] - album.alone(int(i))[-1]) for i in by_change}
    changed = sorted((i for i, by in differ.items() if by > 0), key=lambda i: -differ[i])[: SHOWN // 2]
    rows = [*changed]
    for i in sorted((int(i) for i in by_score if int(i) not in changed), key=lambda i: sign * album.alone(i)[-1]):
        if len(rows) == SHOWN:
            break
        truth, drawn = album.pictures(i)
        if not np.array_equal(truth, drawn[-1]):  # skip images without objects and without detections
            rows.append(i)
    if not rows:
        return False
    found = [album.pictures(i) for i in rows]
    write_arrays(
        path,
        rows=np.array(rows, np.int64),
        changed=np.array([i in changed for i in rows]),
        models=np.array(names),
        scores=np.array([album.alone(i) for i in rows], np.float64),
        truth=np.stack([truth for truth, _ in found]),
        drawn=np.stack([np.stack(drawn) for _, drawn in found]),
    )
    return True


class _DrawnImages:
    """Scores and drawings of single images of a split, computed on first use."""

    def __init__(self, task: Task, split: Split, images: Pixels, outputs_by_model: Mapping[str, Outputs]) -> None:
        self._task, self._split, self._images, self._said = task, split, images, outputs_by_model
        self._alone: dict[int, list[float]] = {}
        self._pictures: dict[int, tuple[Pixels, list[Pixels]]] = {}

    def alone(self, row: int) -> list[float]:
        """Return each model's score on this image alone; unlike scores of the whole split, it does not depend on other images."""
        if row not in self._alone:
            target = [self._split.targets[row]]
            self._alone[row] = [float(self._task.scores(_of(outputs, row), target)[0]) for outputs in self._said.values()]
        return self._alone[row]

    def pictures(self, row: int) -> tuple[Pixels, list[Pixels]]:
        """Return the image with its targets drawn in, and with the predictions of each model."""
        if row not in self._pictures:
            image, target = np.asarray(self._images[row : row + 1]), [self._split.targets[row]]
            drawn = [self._task.draw(image, None if of is None else _of(of, row), target) for of in (None, *self._said.values())]
            shrunk = [_shrunk(np.asarray(picture)[0]) for picture in drawn]
            self._pictures[row] = shrunk[0], shrunk[1:]
        return self._pictures[row]


def _of(outputs: Outputs, row: int) -> dict[str, Any]:
    return {name: values[row : row + 1] for name, values in outputs.items()}


def _shrunk(picture: Pixels) -> Pixels:
    if max(picture.shape[:2]) <= _LARGEST_SIDE:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
