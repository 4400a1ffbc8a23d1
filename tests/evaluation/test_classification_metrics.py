from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as sk

from planish.errors import ModelError
from planish.evaluation.classification_metrics import (
    auroc,
    calibration_error,
    classification_metrics,
    confusion_matrix,
    count_metrics,
    per_class_accuracy,
    probabilities,
)


def draw(n: int, classes: int, seed: int = 0, strength: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Unbalanced classes, a model that is often right."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(classes, n, p=rng.dirichlet(np.full(classes, 3.0)))
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += strength
    return logits, targets


@pytest.mark.parametrize(("n", "classes"), [(60, 2), (500, 7), (300, 40)])
def test_values_agree_with_scikit_learn(n: int, classes: int) -> None:
    logits, targets = draw(n, classes)
    probs, preds = probabilities(logits), logits.argmax(1)
    found = classification_metrics(logits, targets, [str(i) for i in range(classes)])
    expected = {
        "accuracy": 100 * sk.accuracy_score(targets, preds),
        "balanced_accuracy": 100 * sk.balanced_accuracy_score(targets, preds),
        "log_loss": sk.log_loss(targets, probs, labels=range(classes)),
    }
    for average in ("macro", "micro", "weighted"):
        p, r, f, _ = sk.precision_recall_fscore_support(targets, preds, average=average, zero_division=0)
        expected |= {f"precision_{average}": 100 * p, f"recall_{average}": 100 * r, f"f1_{average}": 100 * f}
    present = [i for i in range(classes) if 0 < (targets == i).sum() < n]
    expected["auroc_macro"] = 100 * np.mean([sk.roc_auc_score(targets == i, probs[:, i]) for i in present])
    if classes > 5:
        expected["top5_accuracy"] = 100 * sk.top_k_accuracy_score(targets, logits, k=5, labels=range(classes))
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-6), name
    assert next(iter(found)) == "accuracy"
    assert ("top5_accuracy" in found) == (classes > 5)
    for m in found.values():
        assert m.low is not None
        assert m.high is not None
        assert m.low <= m.value <= m.high, m.name
        assert m.n == n
    np.testing.assert_array_equal(confusion_matrix(preds, targets, classes), sk.confusion_matrix(targets, preds, labels=range(classes)))


def test_interval_of_auroc_is_as_wide_as_a_plain_bootstrap_says() -> None:
    logits, targets = draw(300, 3)
    probs, rng = probabilities(logits), np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        some = rng.integers(0, 300, 300)
        drawn.append(sk.roc_auc_score(targets[some], probs[some] / probs[some].sum(1, keepdims=True), multi_class="ovr"))
    _, low, high = auroc(probs, targets)
    assert high - low == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.15)


def test_calibration_error_against_a_plain_loop() -> None:
    logits, targets = draw(800, 5)
    probs = probabilities(3 * logits)
    confidence, right = probs.max(1), probs.argmax(1) == targets
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(probs, targets).value == pytest.approx(expected, abs=1e-12)
    assert calibration_error(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])).value == 0


def test_per_class_accuracy_is_recall_and_an_absent_class_is_unknown() -> None:
    logits, targets = draw(200, 4)
    targets[targets == 3] = 0
    found = per_class_accuracy(logits, targets, "abcd")
    recall = sk.recall_score(targets, logits.argmax(1), labels=range(4), average=None, zero_division=0)
    assert [m.value for m in found.values()] == pytest.approx(list(100 * recall))
    assert (found["d"].n, found["d"].low, found["d"].high) == (0, 0, 100)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1_macro", "precision_weighted", "auroc", "calibration_error"])
def test_intervals_cover_the_truth(name: str) -> None:
    def measure(n: int, seed: int) -> tuple[float, float, float]:
        logits, targets = draw_balanced(n, seed)
        if name == "auroc":
            return auroc(probabilities(logits), targets)
        if name == "calibration_error":  # an over-confident model: the bias of the estimate is small against the error itself
            return calibration_error(probabilities(5 * logits), targets)
        return count_metrics(logits.argmax(1), targets, 4)[name]

    def draw_balanced(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 4, n)
        logits = rng.normal(size=(n, 4))
        logits[np.arange(n), targets] += 1.5
        return logits, targets

    truth = measure(50_000, 10_000)[0]
    inside = sum(low <= truth <= high for _, low, high in (measure(300, seed) for seed in range(150)))
    assert 0.89 <= inside / 150 < 1.0


def test_ten_thousand_images_are_quick_and_a_thousand_classes_possible() -> None:
    logits, targets = draw(10_000, 10)
    start = time.perf_counter()
    classification_metrics(logits, targets, [str(i) for i in range(10)])
    assert time.perf_counter() - start < 5
    classification_metrics(*draw(1000, 1000), [str(i) for i in range(1000)])


def test_outputs_that_cannot_be_scored_are_refused() -> None:
    logits, targets = draw(10, 3)
    with pytest.raises(ModelError, match=r"\(10, 3\).*\(N, 4\)"):
        classification_metrics(logits, targets, "abcd")
    logits[4, 1] = np.nan
    with pytest.raises(ModelError, match="NaN for 1 of 10"):
        classification_metrics(logits, targets, "abc")
