"""Agreement with an original's answers, against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from planish.errors import GoalError
from planish.evaluation.metrics.classification import kl_divergence
from planish.task import metric_of
from planish.tasks import Agreement

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
