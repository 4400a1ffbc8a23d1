from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from planish.errors import ModelError
from planish.evaluation.metrics.classification import (
    auroc,
    calibration_error,
    classification_metrics,
    confusion_matrix,
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


def problem(kind: str, n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random problem with what makes conventions differ."""
    logits, targets = draw(n, classes, seed)
    absent = classes // 2
    if kind in ("absent from targets", "absent"):
        targets[targets == absent] = 0
    if kind in ("absent from predictions", "absent"):
        logits[:, absent] = -20.0
    if kind == "ties":
        logits = np.clip(np.round(logits), -1, 1)
    return logits, targets


@pytest.mark.parametrize("kind", ["plain", "absent from targets", "absent from predictions", "absent", "ties"])
@pytest.mark.parametrize(("n", "classes", "seed"), [(60, 3, 0), (500, 7, 1), (300, 40, 2), (12, 10, 3), (2000, 6, 4)])
def test_values_agree_with_scikit_learn(kind: str, n: int, classes: int, seed: int) -> None:
    compare(*problem(kind, n, classes, seed), classes)


@pytest.mark.parametrize("kind", ["plain", "ties"])
def test_values_of_two_classes_agree_with_scikit_learn(kind: str) -> None:
    compare(*problem(kind, 60, 2, 0), 2)


def compare(logits: np.ndarray, targets: np.ndarray, classes: int) -> None:
    """Every metric that scikit-learn has, to 1e-6."""
    n = len(targets)
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
    share_right, confidence = calibration_curve(preds == targets, probs.max(1), n_bins=15, pos_label=True)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], probs.max(1)))
    error = 100 * np.average(np.abs(share_right - confidence), weights=counts[counts > 0])
    assert found["calibration_error"].value == pytest.approx(error, abs=1e-6)
    recall = sk.recall_score(targets, preds, labels=range(classes), average=None, zero_division=0)
    assert [m.value for m in per_class_accuracy(logits, targets, [str(i) for i in range(classes)]).values()] == pytest.approx(
        list(100 * recall), abs=1e-6
    )


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


def draw_even(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four classes and a model whose probabilities are right if the logits are taken 1.5 times."""
    targets = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), targets] += 1.5
    return logits, targets


def true_values(sharpness: float) -> dict[str, float]:
    """Of very many images, by scikit-learn."""
    logits, targets = draw_even(400_000, np.random.default_rng(99))
    probs, preds = probabilities(sharpness * logits), logits.argmax(1)
    share_right, confidence = calibration_curve(preds == targets, probs.max(1), n_bins=15)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], probs.max(1)))
    return {
        "accuracy": 100 * sk.accuracy_score(targets, preds),
        "balanced_accuracy": 100 * sk.balanced_accuracy_score(targets, preds),
        "precision_weighted": 100 * sk.precision_score(targets, preds, average="weighted"),
        "f1_macro": 100 * sk.f1_score(targets, preds, average="macro"),
        "auroc_macro": 100 * sk.roc_auc_score(targets, probs, multi_class="ovr"),
        "log_loss": sk.log_loss(targets, probs),
        "calibration_error": 100 * np.average(np.abs(share_right - confidence), weights=counts[counts > 0]),
    }


def coverage(sharpness: float, n: int, rounds: int) -> dict[str, float]:
    """How often the interval of each metric holds the truth."""
    truth, rng = true_values(sharpness), np.random.default_rng(0)
    inside = dict.fromkeys(truth, 0)
    for _ in range(rounds):
        logits, targets = draw_even(n, rng)
        found = classification_metrics(sharpness * logits, targets, "abcd")
        for name, value in truth.items():
            inside[name] += found[name].low <= value <= found[name].high  # type: ignore[operator]
    return {name: count / rounds for name, count in inside.items()}


def test_intervals_cover_the_truth() -> None:
    found = coverage(5.0, 300, 150)
    assert min(found.values()) >= 0.89, found


@pytest.mark.slow
@pytest.mark.parametrize(("sharpness", "n"), [(5.0, 200), (2.5, 1000), (1.5, 300), (0.7, 300)])
def test_intervals_have_their_stated_coverage(sharpness: float, n: int) -> None:
    """A sure model that is often wrong, one somewhat too sure, a calibrated one, and one too modest."""
    found = coverage(sharpness, n, 1000)
    assert min(found.values()) >= 0.925, found
    del found["calibration_error"]  # whose interval is cautious where signs are in doubt
    assert max(found.values()) <= 0.97, found


def test_many_images_and_a_thousand_classes_are_possible() -> None:
    """Memory and, with it, time are of the order of images times classes, never of images squared."""
    logits, targets = draw(10_000, 10)
    tracemalloc.start()
    classification_metrics(logits, targets, [str(i) for i in range(10)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000**2 / 2
    classification_metrics(*draw(1000, 1000), [str(i) for i in range(1000)])


def test_outputs_that_cannot_be_scored_are_refused() -> None:
    logits, targets = draw(10, 3)
    with pytest.raises(ModelError, match=r"\(10, 3\).*\(N, 4\)"):
        classification_metrics(logits, targets, "abcd")
    logits[4, 1] = np.nan
    with pytest.raises(ModelError, match="NaN for 1 of 10"):
        classification_metrics(logits, targets, "abc")
    for value in (np.inf, -np.inf):  # float16 overflows to infinity
        logits[4, 1] = value
        with pytest.raises(ModelError, match="infinite for 1 of 10"):
            classification_metrics(logits, targets, "abc")


@pytest.mark.parametrize("right", [True, False])
def test_twenty_images_that_are_all_right_or_all_wrong_are_never_certain(right: bool) -> None:
    targets = np.arange(20) % 4
    found = classification_metrics(9.0 * np.eye(4)[targets if right else (targets + 1) % 4], targets, "abcd")
    for name in ("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_weighted", *["auroc_macro"] * right):
        assert found[name].value == 100 * right
        assert (found[name].low, found[name].high) == (found["accuracy"].low, found["accuracy"].high)
