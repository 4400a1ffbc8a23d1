"""An evaluation made up in a second, of a model that mixes neighbouring classes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.artifact import InputSpec, Preprocessing
from planish.evaluation.metrics.classification import classification_metrics
from planish.runs.evaluation import Evaluation, EvaluationSettings, EvaluationSubject, evaluate_split, save_evaluation

SPEC = InputSpec(1, 8, 8)
PREPROCESSING = Preprocessing(8, "squash", (0.5,), (0.25,))


@dataclass
class Images:
    """The first two pixels are the image's number, by which the fake model knows it."""

    targets: np.ndarray
    shift: int

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def keys(self) -> list[str]:
        return [f"test/{i:04d}.png" for i in range(len(self))]

    def images(self, spec: InputSpec, preprocessing: Preprocessing) -> np.ndarray:
        numbers = np.arange(len(self)) + self.shift
        pixels = np.zeros((len(self), spec.height, spec.width, 1), np.uint8)
        pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = numbers // 256, numbers % 256
        return pixels


class FakeTask:
    name = "classification"
    primary_metric = "accuracy"

    def __init__(self, class_names: Sequence[str], n: int) -> None:
        self.class_names = tuple(class_names)
        targets = np.random.default_rng(1).integers(0, len(class_names), 2 * n)
        self.splits = {"test": Images(targets[:n], 0), "validation": Images(targets[n:], n)}

    def split(self, name: str) -> Any:
        return self.splits[name]

    def metrics(self, outputs: Any, targets: Any) -> Any:
        return classification_metrics(outputs["logits"], targets, self.class_names)

    def errors(self, outputs: Any, targets: Any, against: Any = None) -> dict[str, Any]:
        return {}

    def draw(self, pixels: Any, outputs: Any, targets: Any) -> None:
        """A class has no place in the image."""

    def scores(self, outputs: Any, targets: Any) -> Any:
        return (outputs["logits"].argmax(1) == targets).astype(float)


def logits_of(task: FakeTask, sharpness: float = 2.0, skill: float = 4.0) -> np.ndarray:
    """Of test, then of validation; the sharper, the surer; the more skill, the fewer mistakes."""
    targets = np.concatenate([task.split(name).targets for name in ("test", "validation")])
    classes, rng = len(task.class_names), np.random.default_rng(2)
    logits = rng.normal(0, 1, (len(targets), classes))
    logits[np.arange(len(targets)), targets] += skill + rng.normal(0, 1, len(targets))
    logits[np.arange(len(targets)), targets ^ 1 if classes % 2 == 0 else targets] += 2.0
    return (sharpness * logits).astype(np.float32)


def write_fake(
    folder: Path,
    class_names: Sequence[str],
    n: int = 1200,
    corruptions: bool = False,
    split: Any = "test",
    sharpness: float = 2.0,
    skill: float = 4.0,
) -> Evaluation:
    """Evaluate on ``n`` images per split, and keep that in ``folder``."""
    task = FakeTask(class_names, n)
    logits = logits_of(task, sharpness, skill)

    def predictor(images: np.ndarray) -> dict[str, np.ndarray]:
        numbers = images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]
        return {"logits": logits[np.minimum(numbers, len(logits) - 1)]}

    evaluated = evaluate_split(predictor, task, split, SPEC, PREPROCESSING, EvaluationSettings(corruptions=corruptions))  # type: ignore[arg-type]
    return save_evaluation(folder, evaluated, SPEC, PREPROCESSING, subject=EvaluationSubject("fake", "shapes", "onnxruntime"))  # type: ignore[arg-type]
