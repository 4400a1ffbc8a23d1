from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score, precision_recall_curve, precision_score, recall_score

from planish.errors import ModelError
from planish.evaluation.metrics.thresholds import (
    at_threshold,
    class_scores,
    precision_by_coverage,
    threshold_for_f1,
    threshold_for_precision,
    threshold_for_recall,
    top_scores,
)


def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The higher the score the likelier positive, but never certainly."""
    scores = rng.beta(2, 1, n)
    return scores, rng.random(n) < 0.2 + 0.78 * scores


@cache
def population() -> tuple[np.ndarray, np.ndarray]:
    """All images there could be: scores from low to high, and the positives that each accepts as a threshold."""
    scores, positive = draw(2_000_000, np.random.default_rng(12345))
    order = np.argsort(scores)
    return scores[order], positive[order][::-1].cumsum()[::-1]


def truth(threshold: float) -> tuple[float, float]:
    """Precision and recall among all images there could be."""
    scores, hits = population()
    first = min(int(np.searchsorted(scores, threshold)), len(scores) - 1)
    return hits[first] / (len(scores) - first), hits[first] / hits[0]


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=60))
def test_what_a_threshold_gives_is_what_scikit_learn_says(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s / 8 for s, _ in drawn]), np.array([p for _, p in drawn])
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    for p, r, threshold in zip(precision, recall, thresholds, strict=False):
        found = at_threshold(threshold, scores, positive)
        assert found["precision"].value == pytest.approx(100 * p)
        if positive.any():  # scikit-learn calls the recall of nothing 1
            assert found["recall"].value == pytest.approx(100 * r)
        assert found["f1"].value == pytest.approx(100 * f1_score(positive, scores >= threshold, zero_division=0))
        assert found["coverage"].value == pytest.approx(100 * np.mean(scores >= threshold))
        for m in found.values():
            assert m.low is not None
            assert m.high is not None
            assert m.low <= m.value + 1e-9
            assert m.value <= m.high + 1e-9
    best = [f1_score(positive, scores >= t, zero_division=0) for t in thresholds]
    assert f1_score(positive, scores >= threshold_for_f1(scores, positive), zero_division=0) == pytest.approx(max(best))


@pytest.mark.parametrize("wanted", [0.8, 0.85, 0.88])
def test_a_promised_precision_is_kept_19_times_in_20(wanted: float) -> None:
    rng, kept, covered = np.random.default_rng(0), [], []
    for _ in range(400):
        try:
            threshold = threshold_for_precision(*draw(1000, rng), wanted)
        except ModelError:
            continue
        kept.append(truth(threshold)[0] >= wanted)
        covered.append(truth(threshold)[1])
    assert len(kept) > 300
    assert np.mean(kept) >= 0.93
    best = max(recall for precision, recall in map(truth, np.linspace(0, 0.999, 1000)) if precision >= wanted)
    assert np.median(covered) > 0.65 * best, "caution must not cost everything"


def test_choosing_by_what_was_seen_would_break_the_promise() -> None:
    """The test above can fail: without a bound, half of the promises break."""
    rng, kept = np.random.default_rng(0), []
    for _ in range(200):
        scores, positive = draw(1000, rng)
        precision, _, thresholds = precision_recall_curve(positive, scores)
        threshold = thresholds[np.argmax(precision[:-1] >= 0.85)]
        kept.append(truth(threshold)[0] >= 0.85)
    assert np.mean(kept) < 0.6


@pytest.mark.parametrize("wanted", [0.5, 0.9])
def test_a_promised_recall_is_kept_19_times_in_20(wanted: float) -> None:
    rng = np.random.default_rng(1)
    found = [truth(threshold_for_recall(*draw(300, rng), wanted))[1] for _ in range(400)]
    assert np.mean(np.array(found) >= wanted) >= 0.93
    assert np.median(found) < wanted + 0.12


def test_the_recall_bound_is_scipys() -> None:
    scores, positive = np.arange(100) / 100, np.ones(100, bool)
    threshold = threshold_for_recall(scores, positive, 0.8)
    accepted = int((scores >= threshold).sum())
    bounds = [stats.binomtest(k, 100, alternative="greater").proportion_ci(0.95, "exact").low for k in (accepted, accepted - 1)]
    assert bounds[1] < 0.8 <= bounds[0]


def test_a_sure_model_answers_everything_and_a_hopeless_one_nothing() -> None:
    scores = np.linspace(0.5, 1, 500)
    assert threshold_for_precision(scores, np.ones(500, bool), 0.95) == 0.5
    for wanted, choose in ((0.9, threshold_for_precision), (0.9, threshold_for_recall)):
        with pytest.raises(ModelError, match="can be promised with 95 % confidence is 0 %"):
            choose(scores, np.zeros(500, bool), wanted)


@pytest.mark.parametrize("choose", [threshold_for_precision, threshold_for_recall])
def test_what_is_said_to_be_possible_is(choose) -> None:  # type: ignore[no-untyped-def]
    scores, positive = draw(150, np.random.default_rng(3))
    with pytest.raises(ModelError, match=r"99\.9 %") as caught:
        choose(scores, positive, 0.999)
    most = float(re.search(r"confidence is ([\d.]+) %", str(caught.value)).group(1)) / 100  # type: ignore[union-attr]
    choose(scores, positive, most)
    with pytest.raises(ModelError):
        choose(scores, positive, most + 0.001)
    for wrong in (0, 1, 95):
        with pytest.raises(ModelError, match=r"for example 0\.95"):
            choose(scores, positive, wrong)


def test_scores_of_a_class_and_of_the_top() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores, positive = class_scores(logits, targets, 2)
    np.testing.assert_allclose(scores, probs[:, 2])
    assert (positive == (targets == 2)).all()
    scores, right = top_scores(logits, targets)
    np.testing.assert_allclose(scores, probs.max(1))
    assert (right == (logits.argmax(1) == targets)).all()
    found = at_threshold(0.6, scores, right)
    answered = probs.max(1) >= 0.6
    assert found["precision"].value == pytest.approx(100 * np.mean(logits.argmax(1)[answered] == targets[answered]))
    assert found["precision"].n == answered.sum()
    nothing = at_threshold(2.0, scores, right)
    assert (nothing["precision"].n, nothing["precision"].low, nothing["precision"].high) == (0, 0, 100)
    assert nothing["coverage"].value == 0
    assert precision_score(right, answered) * 100 == pytest.approx(found["precision"].value)
    assert recall_score(right, answered) * 100 == pytest.approx(found["recall"].value)


def test_the_interval_of_f1_covers() -> None:
    rng = np.random.default_rng(0)
    accepted, positive = (lambda s, p: (s >= 0.7, p))(*draw(300_000, np.random.default_rng(9)))
    true = 100 * f1_score(positive, accepted)
    found = [at_threshold(0.7, *draw(200, rng))["f1"] for _ in range(1000)]
    assert 0.93 <= np.mean([m.low <= true <= m.high for m in found]) <= 0.97  # type: ignore[operator]


def test_precision_by_coverage_is_scikit_learns_curve() -> None:
    scores, positive = draw(300, np.random.default_rng(5))
    scores = scores.round(2)  # with ties
    coverage, precision = precision_by_coverage(scores, positive)
    expected, _, thresholds = precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision, expected[:-1][::-1])
    np.testing.assert_allclose(coverage, [(scores >= t).mean() for t in thresholds[::-1]])
