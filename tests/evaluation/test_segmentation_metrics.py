"""Overlap of label maps against scikit-learn's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from planish.evaluation.metrics.segmentation import iou_by_class, segmentation_metrics, segmentation_scores

NAMES = ("a", "b", "c", "d")


def maps(seed: int, images: int = 20) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    targets = [rng.integers(0, 3, (16, 24)).astype(np.uint8) for _ in range(images)]
    said = np.stack([np.where(rng.random(t.shape) < 0.7, t, rng.integers(0, 3, t.shape)) for t in targets]).astype(np.uint8)
    for target in targets:
        target[rng.random(target.shape) < 0.1] = 255
    return said, targets


def test_metrics_are_those_of_scikit_learn() -> None:
    said, targets = maps(0)
    asked = np.stack(targets) != 255
    truth, preds = np.stack(targets)[asked], said[asked]
    found = segmentation_metrics({"classes": said}, targets, NAMES)
    assert found["miou"].value == pytest.approx(100 * jaccard_score(truth, preds, average="macro"))
    assert found["dice"].value == pytest.approx(100 * f1_score(truth, preds, average="macro"))
    assert found["pixel_accuracy"].value == pytest.approx(100 * accuracy_score(truth, preds))
    assert all(m.low < m.value < m.high for m in found.values())
    each = iou_by_class({"classes": said}, targets, NAMES)
    assert list(each) == ["a", "b", "c"], "of d there is nothing, neither seen nor said"
    assert [m.value for m in each.values()] == pytest.approx(100 * jaccard_score(truth, preds, average=None))


def test_predictions_are_brought_to_the_size_of_the_target() -> None:
    target = np.repeat(np.repeat(np.array([[0, 1], [2, 0]], np.uint8), 8, 0), 12, 1)
    found = segmentation_metrics({"classes": np.array([[[0, 1], [2, 0]]], np.uint8)}, [target], NAMES)
    assert found["miou"].value == 100


def test_scores_mean_the_metric_and_spread_as_it_does() -> None:
    values, widths = [], []
    for seed in range(20):
        said, targets = maps(seed, 40)
        scores = segmentation_scores({"classes": said}, targets, NAMES)
        values.append(segmentation_metrics({"classes": said}, targets, NAMES)["miou"].value)
        assert 100 * scores.mean() == pytest.approx(values[-1])
        widths.append(100 * scores.std(ddof=1) / np.sqrt(40))
    assert 0.7 < np.mean(widths) / np.std(values, ddof=1) < 1.5


def test_intervals_contain_the_estimate_where_each_class_is_in_one_image() -> None:
    targets = [np.zeros((10, 10), np.uint8) for _ in range(20)]
    for number, target in enumerate(targets):
        target[0, :3] = number + 1
    said = np.zeros((20, 10, 10), np.uint8)  # resamples lack a third of the classes, all of which are missed
    found = segmentation_metrics({"classes": said}, targets, [str(number) for number in range(21)])
    assert all(m.low <= m.value <= m.high for m in found.values())
