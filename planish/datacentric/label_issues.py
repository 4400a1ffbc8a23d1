"""Images whose label is probably wrong, listed from cross-validation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import InputSpec, Preprocessing
from planish.data import ImageData, load_images, require_classes
from planish.data.preprocessing import preprocess
from planish.datacentric.folds import OutOfFold
from planish.datacentric.folds import folds as cross_validate
from planish.evaluation.errors.label_issues import suspected_labels
from planish.evaluation.metrics.classification import probabilities
from planish.files.atomic import read_result, results_folder, write_arrays, write_result
from planish.measurement import Measurement
from planish.split_assignment import SPLITS_FILE, SplitAssignment

_STRICT = ConfigDict(extra="forbid")
_SHOWN = 200  # issues that are kept with their pixels
_SIDE = 112  # of those, in pixels at most


@dataclass(frozen=True, config=_STRICT)
class LabelIssue:
    """One image whose label is probably wrong.

    Args:
        key: its path below the data folder.
        label: as given.
        predicted: the most likely class.
        label_probability: of the given label, in percent, by networks that were not trained on the image.
        predicted_probability: of the most likely class, likewise.
    """

    key: str
    label: str
    predicted: str
    label_probability: float
    predicted_probability: float


@dataclass(frozen=True, config=_STRICT)
class LabelIssues:
    """Images whose label is probably wrong; ``label_issues.json``.

    Args:
        images: of train and validation, that were judged.
        accuracy: of the networks that judged them, see ``Folds``; classes that they confuse give issues that are none.
        issues: the most likely ones first.
    """

    name: str
    created: str
    command: str
    data: str
    model: str
    images: int
    accuracy: Measurement
    issues: list[LabelIssue]
    notes: list[str] = Field(default_factory=list)
    schema_version: Literal[1] = 1

    @classmethod
    def load(cls, path: Path) -> LabelIssues:
        """Read what ``save`` wrote; raises ``BundleError`` where it is not that."""
        return read_result(path, LabelIssues)


def find_label_issues(
    data: str | Path,
    *,
    model: str = "resnet20",
    out: str | Path | None = None,
    skip_bad: bool = False,
    seed: int = 0,
    command: str = "",
    **options: Any,
) -> LabelIssues:
    """Images of train and validation whose label is probably wrong; see ``evaluation.errors.label_issues``.

    Args:
        data: a folder, a manifest or a built-in name.
        model: a name or ``FILE.py:factory``.
        out: the folder, by default ``runs/label-issues-`` and a name made from data and model. With ``resume`` it may be one of
            ``planish.datacentric.folds.folds``, if all settings are the same: nothing is trained again then.
        skip_bad: leave broken images out.
        seed: see ``folds``.
        command: the command line, for the page.
        options: the others of ``planish.datacentric.folds.folds``.

    Returns:
        What was found; also in ``label_issues.json``, with pixels of the first ones in ``label_issues.npz``.
    """
    require_classes(data, "a list of labels that are probably wrong")
    folder = results_folder(out, "label-issues", data, model)
    judged = cross_validate(data, model=model, out=folder, skip_bad=skip_bad, seed=seed, command=command, **options)
    said = OutOfFold.load(folder)
    probs = probabilities(said.logits).mean(axis=0)
    rows, likeliest = suspected_labels(probs, said.targets)
    images = load_images(data, seed=seed, skip_bad=skip_bad, assignment=SplitAssignment.load(folder / SPLITS_FILE))
    found = LabelIssues(
        name=folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        data=str(data),
        model=model,
        images=len(said.targets),
        accuracy=judged.accuracy,
        issues=[
            LabelIssue(
                key=str(said.keys[row]),
                label=images.class_names[said.targets[row]],
                predicted=images.class_names[other],
                label_probability=100 * float(probs[row, said.targets[row]]),
                predicted_probability=100 * float(probs[row, other]),
            )
            for row, other in zip(rows, likeliest, strict=True)
        ],
        notes=judged.notes,
    )
    write_arrays(folder / "label_issues.npz", pixels=_pixels(images, [issue.key for issue in found.issues[:_SHOWN]]))
    write_result(folder / "label_issues.json", found)
    return found


def _pixels(images: ImageData, keys: list[str]) -> npt.NDArray[np.uint8]:
    """The images of these keys, all of one size, ``(K, H, W, C)``."""
    shrink = min(1.0, _SIDE / max(images.typical_height, images.typical_width))
    spec = InputSpec(images.channels, max(1, round(shrink * images.typical_height)), max(1, round(shrink * images.typical_width)))
    preprocessing = Preprocessing(256, "squash", images.mean, images.std)
    pool = images.splits["train"].joined(images.splits["validation"])
    place = {key: i for i, key in enumerate(pool.keys)}
    shown = [preprocess(pool.file_bytes(place[key]), spec, preprocessing) for key in keys]
    return np.stack(shown) if shown else np.zeros((0, spec.height, spec.width, spec.channels), np.uint8)
