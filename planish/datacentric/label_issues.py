"""Label issues, found with cross-validation: images whose label is probably wrong."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from planish.artifact import InputSpec, Preprocessing
from planish.data import ImageData, load_images, require_classes
from planish.data.preprocessing import preprocess
from planish.datacentric.folds import OutOfFold
from planish.datacentric.folds import folds as cross_validate
from planish.evaluation.errors.label_issues import suspected_labels
from planish.evaluation.metrics.classification import probabilities
from planish.files.atomic import job_folder, read_result, write_arrays, write_result
from planish.measurement import Measurement
from planish.runs.record import RunRecord
from planish.settings import ModelSettings, RecipeSettings, RunSettings
from planish.split_assignment import SPLITS_FILE, SplitAssignment

_STRICT = ConfigDict(extra="forbid")
_SHOWN = 200  # number of issues whose pixels are stored
_SIDE = 112  # maximum side of the stored images, in pixels


@dataclass(frozen=True, config=_STRICT)
class LabelIssue:
    """An image whose label is probably wrong.

    Args:
        key: path of the image, relative to the data folder.
        label: given label.
        predicted: most likely class.
        label_probability: probability of the given label in percent, from networks that were not trained on the image.
        predicted_probability: probability of the most likely class in percent, from the same networks.
    """

    key: str
    label: str
    predicted: str
    label_probability: float
    predicted_probability: float


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LabelIssues(RunRecord):
    """Images whose label is probably wrong; ``label_issues.json``.

    Args:
        images: number of images of train and validation that were checked.
        accuracy: accuracy of the networks, see ``Folds``; classes that they confuse cause false issues.
        issues: the most likely ones first.
    """

    data: str
    model: str
    images: int
    accuracy: Measurement
    issues: list[LabelIssue]

    @classmethod
    def load(cls, path: Path) -> LabelIssues:
        """Read ``label_issues.json``; raises ``BundleError`` if the file is not valid."""
        return read_result(path, LabelIssues)


def find_label_issues(
    data: str | Path, *, model: ModelSettings, recipe: RecipeSettings, folds: int = 5, repeats: int = 1, run: RunSettings
) -> LabelIssues:
    """Find images of train and validation whose label is probably wrong; see ``evaluation.errors.label_issues``.

    Args:
        data: a folder, a manifest or a built-in name.
        model: name and weights of the model.
        recipe: see ``folds``.
        folds: see ``folds``.
        repeats: see ``folds``.
        run: settings of the run; the folder is ``runs/label-issues-`` and a name made from data and model by default. To resume, it may
            be the folder of a ``folds`` run with the same settings; nothing is then trained again.

    Returns:
        The issues; also written to ``label_issues.json``, and the pixels of the first ones to ``label_issues.npz``.
    """
    require_classes(data, "a list of labels that are probably wrong")
    folder = job_folder(run.out, "label-issues", data, model.name)
    judged = cross_validate(data, model=model, recipe=recipe, folds=folds, repeats=repeats, run=replace(run, out=folder))
    said = OutOfFold.load(folder)
    probs = probabilities(said.logits).mean(axis=0)
    rows, likeliest = suspected_labels(probs, said.targets)
    images = load_images(data, seed=run.seed, skip_bad=run.skip_bad, assignment=SplitAssignment.load(folder / SPLITS_FILE))
    head = {field.name: getattr(judged, field.name) for field in fields(RunRecord)}
    found = LabelIssues(
        **head,
        data=str(data),
        model=model.name,
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
    )
    write_arrays(folder / "label_issues.npz", pixels=_pixels(images, [issue.key for issue in found.issues[:_SHOWN]]))
    write_result(folder / "label_issues.json", found)
    return found


def _pixels(images: ImageData, keys: list[str]) -> npt.NDArray[np.uint8]:
    """Return the images with these keys, resized to the same size, ``(K, H, W, C)``."""
    shrink = min(1.0, _SIDE / max(images.typical_height, images.typical_width))
    spec = InputSpec(images.channels, max(1, round(shrink * images.typical_height)), max(1, round(shrink * images.typical_width)))
    preprocessing = Preprocessing(256, "squash", images.mean, images.std)
    pool = images.splits["train"].joined(images.splits["validation"])
    place = {key: i for i, key in enumerate(pool.keys)}
    shown = [preprocess(pool.file_bytes(place[key]), spec, preprocessing) for key in keys]
    return np.stack(shown) if shown else np.zeros((0, spec.height, spec.width, spec.channels), np.uint8)
