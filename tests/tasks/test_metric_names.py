"""The metric that is chosen by name: what names are understood, and what the task then does."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from planish.errors import DataError, GoalError
from planish.measurement import Metric
from planish.task import SPLITS, metric_of
from planish.tasks import require_defined, task_for

NAMES = ("good", "Defective", "road: wet")


@pytest.mark.parametrize(
    ("task", "given", "name"),
    [
        ("classification", "accuracy", "accuracy"),
        ("classification", "Balanced-Accuracy", "balanced_accuracy"),
        ("classification", "macro F1", "f1_macro"),
        ("classification", "f1_macro", "f1_macro"),
        ("classification", "auroc", "auroc_macro"),
        ("classification", "log-loss", "log_loss"),
        ("classification", "recall:Defective", "recall:Defective"),
        ("classification", "recall:defective", "recall:Defective"),
        ("classification", "precision:road: wet", "precision:road: wet"),
        ("detection", "map", "map"),
        ("detection", "map50", "map_50"),
        ("detection", "map_75", "map_75"),
        ("instance", "map95", "mask_map_95"),
        ("semantic", "miou", "miou"),
        ("semantic", "iou:good", "iou:good"),
        ("semantic", "pixel-accuracy", "pixel_accuracy"),
    ],
)
def test_names_that_are_understood(task: str, given: str, name: str) -> None:
    assert metric_of(task_for(task, {}, NAMES, given)).name == name


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        ("classification", "recal:good", ["recall:CLASS", "did you mean 'recall:CLASS'?"]),
        ("classification", "macro_f", ["macro_f1", "did you mean 'macro_f1'?"]),
        ("classification", "recall:defektive", ["no class 'defektive'", "good, Defective", "did you mean 'recall:Defective'?"]),
        ("classification", "recall", ["no class is named", "recall:good"]),
        ("classification", "accuracy:good", ["of all classes", "did you mean 'accuracy'?"]),
        ("classification", "map50", ["metrics of classification are accuracy"]),
        ("classification", "", ["metrics of classification are accuracy"]),
        ("detection", "map52", ["metrics of detection are map, map50, map55"]),
        ("detection", "recall:good", ["metrics of detection are map, map50"]),
        ("semantic", "iou:rod: wet", ["did you mean 'iou:road: wet'?"]),
    ],
)
def test_other_names_are_refused_with_the_nearest_one(task: str, given: str, words: list[str]) -> None:
    with pytest.raises(GoalError) as caught:
        task_for(task, {}, NAMES, given)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_log_loss_is_in_nats_and_lower_is_better() -> None:
    assert metric_of(task_for("classification", {}, NAMES, "log-loss")) == Metric("log_loss", "nats", higher_is_better=False)


@pytest.mark.parametrize("given", ["recall:Defective", "f1_macro", "log_loss", "auroc"])
def test_a_classifier_reports_the_chosen_metric_first(given: str) -> None:
    rng = np.random.default_rng(0)
    task, targets, outputs = task_for("classification", {}, NAMES, given), rng.integers(0, 3, 50), {"logits": rng.normal(size=(50, 3))}
    name, first = next(iter(task.metrics(outputs, targets).items()))
    metric = metric_of(task)
    assert (name, Metric.of(first)) == (metric.name, metric)
    assert first.value == pytest.approx(metric.scale * task.scores(outputs, targets).mean())
    assert {"accuracy", "f1_macro", "log_loss"} <= task.metrics(outputs, targets).keys()


def test_the_iou_of_a_class_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = [rng.integers(0, 2, (9, 9)).astype(np.uint8) for _ in range(30)]
    said = np.stack([np.where(rng.random(t.shape) < 0.8, t, 1 - t) for t in targets]).astype(np.uint8)
    task, outputs = task_for("semantic", {}, NAMES, "iou:Defective"), {"classes": said}
    expected = jaccard_score(np.stack(targets).ravel(), said.ravel(), labels=[1], average="macro")
    first = next(iter(task.metrics(outputs, targets).values()))
    assert (first.name, first.value) == ("iou:Defective", pytest.approx(100 * expected))
    assert task.scores(outputs, targets).mean() == pytest.approx(expected)
    everywhere = {"classes": np.ones_like(said)}
    assert task.guessing(targets) == pytest.approx(task.scores(everywhere, targets).mean())


@pytest.mark.parametrize("given", ["miou", "dice", "pixel_accuracy"])
def test_guessing_of_pixels_is_the_most_frequent_class_everywhere(given: str) -> None:
    targets = [np.random.default_rng(i).choice(3, (20, 20), p=[0.5, 0.3, 0.2]).astype(np.uint8) for i in range(8)]
    task = task_for("semantic", {}, NAMES, given)
    assert task.guessing(targets) == pytest.approx(task.scores({"classes": np.zeros((8, 20, 20), np.uint8)}, targets).mean())


def test_an_image_without_the_class_is_right_alone() -> None:
    task, blank = task_for("semantic", {}, NAMES, "iou:Defective"), np.zeros((1, 4, 4), np.uint8)
    assert task.scores({"classes": blank}, list(blank)).tolist() == [1]


def test_a_split_without_the_class_is_refused() -> None:
    class Labelled:
        targets = np.array([0, 0, 2])

    task = task_for("classification", dict.fromkeys(SPLITS, Labelled()), NAMES, "recall:defective")
    with pytest.raises(DataError, match="the validation split has no image of the class 'Defective'"):
        require_defined(task, ("validation",))
