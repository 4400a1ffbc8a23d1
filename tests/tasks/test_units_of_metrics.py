"""What evaluates, trains and draws holds for a metric in millimetres, of which less is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from planish.artifact import InputSpec, Preprocessing
from planish.evaluation.evaluate import class_logits
from planish.evaluation.metrics.robustness import robustness
from planish.measurement import Measurement, Metric, digits_of
from planish.report.plots.pictures import read_pictures, shown
from planish.runs.pictures import write_pictures
from planish.tasks.base import BaseTask
from planish.training.original import better_than_guessing

SPEC = InputSpec(1, 16, 16)
PREPROCESSING = Preprocessing(16, "squash", (0.5,), (0.5,))
ERRORS = np.array([0.1, 0.9, 0.3, 0.2, 0.05, 0.4], np.float32)


class Images:
    """The first pixel is the image's number."""

    keys = tuple(f"{i}.png" for i in range(len(ERRORS)))
    targets = np.zeros((len(ERRORS), 1), np.float32)

    def __len__(self) -> int:
        return len(self.keys)

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> Any:
        pixels = np.full((len(self), 16, 16, 1), 100, np.uint8)
        pixels[:, 0, 0, 0] = np.arange(len(self))
        return pixels


@dataclass(frozen=True)
class Millimetres(BaseTask):
    """Outputs are errors."""

    name: ClassVar[str] = "millimetres"
    primary_metric: ClassVar[Metric] = Metric("mean_absolute_error", "mm", higher_is_better=False)

    def guessing(self, targets: Any) -> float:
        return 1.0

    def scores(self, outputs: Any, targets: Any) -> Any:
        return np.abs(outputs["logits"].astype(np.float64)).mean(axis=1)

    def draw(self, pixels: Any, outputs: Any, targets: Any) -> Any:
        shade = 0 if outputs is None else 50
        return np.full((len(pixels), 16, 16, 3), shade, np.uint8)


IMAGES: Any = Images()
TASK: Any = Millimetres({"test": IMAGES}, ("width",))


@pytest.mark.parametrize(("error", "trained"), [(0.0, True), (0.74, True), (0.76, False), (1.5, False)])
def test_a_network_is_trained_whose_error_is_well_below_that_of_guessing(error: float, trained: bool) -> None:
    outputs = {"logits": np.full((4, 1), error, np.float32)}
    assert better_than_guessing(TASK, outputs, None) == (pytest.approx(error), trained)


def test_robustness_is_in_the_unit() -> None:
    found = robustness(lambda images: {"logits": np.full((len(images), 1), 0.25, np.float32)}, TASK, "test", SPEC, PREPROCESSING)
    one = found["mean_absolute_error_corrupted"]
    assert (one.value, one.unit, one.higher_is_better) == (pytest.approx(0.25), "mm", False)


def test_the_worst_pictures_have_the_largest_errors(tmp_path: Path) -> None:
    said = {"model": {"logits": ERRORS[:, None]}}
    assert write_pictures(tmp_path / "pictures.npz", TASK, IMAGES, SPEC, PREPROCESSING, said, {"model": TASK.scores(said["model"], None)})
    (group,) = shown(read_pictures(tmp_path / "pictures.npz", len(IMAGES)), np.array(IMAGES.keys), TASK.primary_metric)
    assert [row.key for row in group.rows] == [f"{i}.png" for i in np.argsort(-ERRORS)]
    assert group.rows[0].pictures[1].score == "0.900 mm"


def test_logits_of_classes_are_those_with_class_numbers() -> None:
    outputs = {"logits": np.zeros((3, 2))}
    assert class_logits(outputs, np.array([0, 1, 0])) is outputs["logits"]
    assert class_logits(outputs, np.zeros(3, np.float32)) is None
    assert class_logits(outputs, np.zeros((3, 2), np.int64)) is None
    assert class_logits({"boxes": np.zeros((3, 1, 4))}, np.array([0, 1, 0])) is None


@pytest.mark.parametrize(("value", "shown_as"), [(0.01234, "0.0123 mm"), (1.234, "1.23 mm"), (123.4, "123 mm"), (0.0, "0.00 mm")])
def test_other_units_have_three_significant_digits(value: float, shown_as: str) -> None:
    assert str(Measurement("error", value, "mm", 3, False)) == shown_as
    assert digits_of("%", value) == 2
