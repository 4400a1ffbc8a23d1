"""Agreement with an original's answers, against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from planish.artifact import InputSpec
from planish.errors import GoalError
from planish.evaluation.drawing import LEAST_SCORE
from planish.evaluation.metrics.classification import kl_divergence
from planish.task import metric_of
from planish.tasks import Agreement, Detection, SemanticSegmentation

rng = np.random.default_rng(0)
NAMES = tuple(map(str, range(1000)))
ANSWERS = rng.choice([3, 14, 15, 92, 653, 589, 793], 60)  # 7 of 1000 classes
LOGITS = rng.normal(size=(60, 1000)).astype(np.float32)
LOGITS[np.arange(60), ANSWERS] += np.where(np.arange(60) % 5 == 0, -9, 9)
task = Agreement({}, NAMES)


def test_agreement_is_the_share_of_equal_answers() -> None:
    same = LOGITS.argmax(1) == ANSWERS
    assert 0 < same.mean() < 1
    found = task.metrics({"logits": LOGITS}, ANSWERS)
    assert list(found) == ["agreement"]
    measured = found["agreement"]
    assert (measured.name, measured.unit, measured.n) == ("agreement", "%", 60)
    assert measured.value == pytest.approx(100 * same.mean())
    np.testing.assert_array_equal(task.scores({"logits": LOGITS}, ANSWERS), same)
    assert metric_of(task).name == "agreement"
    assert metric_of(task).worse(1) == "loses 1.00 points of agreement"


def test_per_class_are_the_answers_that_occur() -> None:
    found = task.per_class({"logits": LOGITS}, ANSWERS)
    kinds, counts = np.unique(ANSWERS, return_counts=True)
    assert {name: measured.n for name, measured in found.items()} == dict(zip(kinds.astype(str), counts, strict=True))
    for kind in kinds:
        rows = kind == ANSWERS
        assert found[str(kind)].value == pytest.approx(100 * (LOGITS[rows].argmax(1) == kind).mean())
        assert found[str(kind)].name == "agreement"


def test_guessing_is_the_most_frequent_answer() -> None:
    assert task.guessing(ANSWERS) == pytest.approx(np.bincount(ANSWERS).max() / 60)
    assert task.guessing(np.full(9, 14)) == 1


def test_other_metrics_need_labels() -> None:
    with pytest.raises(GoalError, match="macro-f1 for images without labels"):
        task.with_metric("macro-f1")


def test_divergence_is_that_of_scipy() -> None:
    other = LOGITS + rng.normal(size=LOGITS.shape).astype(np.float32)
    expected = entropy(softmax(LOGITS.astype(float), axis=1), softmax(other.astype(float), axis=1), axis=1)
    found = kl_divergence(LOGITS, other)
    assert (found.name, found.unit, found.n) == ("kl_divergence", "nats", 60)
    assert found.value == pytest.approx(expected.mean())
    assert found.low < found.value < found.high  # type: ignore[operator]
    assert kl_divergence(LOGITS, LOGITS).value == 0


def test_a_detector_agrees_with_itself_and_less_with_others() -> None:
    corners = rng.uniform(0, 0.7, (12, 6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05, 0.3, (12, 6, 2))], 2).astype(np.float32)
    scores = np.sort(rng.uniform(0, 1, (12, 6)).astype(np.float32))[:, ::-1]
    outputs = {"boxes": boxes, "scores": scores, "labels": rng.integers(0, 2, (12, 6))}
    task = Detection({}, ("cat", "dog"))
    answers = task.answers(outputs, InputSpec(3, 64, 96))
    assert [len(one) for one in answers] == [(row >= LEAST_SCORE).sum() for row in scores]
    assert answers[0].areas[0] == pytest.approx(np.prod(boxes[0, 0, 2:] - boxes[0, 0, :2]) * 64 * 96, rel=1e-5)
    assert task.metrics(outputs, answers)["map"].value == pytest.approx(100)
    moved = {**outputs, "boxes": np.clip(boxes + 0.05, 0, 1)}
    assert task.metrics(moved, answers)["map"].value < 80


def test_boxes_without_an_area_and_beyond_the_image_are_no_answers() -> None:
    boxes = np.array([[[0.2, 0.2, 0.2, 0.9], [-0.5, -0.5, 0.5, 0.5], [1.2, 0.1, 1.5, 0.9]]], np.float32)
    outputs = {"boxes": boxes, "scores": np.full((1, 3), 0.9, np.float32), "labels": np.zeros((1, 3), np.int64)}
    (found,) = Detection({}, ("cat",)).answers(outputs, InputSpec(3, 32, 32))
    np.testing.assert_allclose(found.boxes, [[0, 0, 0.5, 0.5]])


def test_a_segmenter_agrees_with_itself() -> None:
    maps = np.random.default_rng(0).integers(0, 3, (4, 8, 8)).astype(np.uint8)
    outputs = {"classes": maps, "confidence": np.ones((4, 8, 8), np.float32)}
    task = SemanticSegmentation({}, ("sky", "sea", "sand"))
    assert task.metrics(outputs, task.answers(outputs, InputSpec(3, 8, 8)))["miou"].value == pytest.approx(100)


@pytest.mark.parametrize("task", [Detection({}, ("cat",), name="instance")])
def test_tasks_without_answers_say_so(task: Detection) -> None:
    with pytest.raises(GoalError, match="images without labels"):
        task.answers({}, InputSpec(3, 8, 8))
