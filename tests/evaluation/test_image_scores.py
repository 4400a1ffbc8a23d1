"""Scores of images for metrics that are not means over images, against scikit-learn and a bootstrap of the metrics themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from planish.errors import DataError
from planish.evaluation.metrics.image_scores import class_metric, effective_images, guessing_score, image_scores
from planish.evaluation.statistics.intervals import paired_difference
from planish.measurement import Metric

NAMES = ("good", "scratch", "dent", "hole: deep")
SHARES = (0.57, 0.27, 0.12, 0.04)
METRICS = (
    "accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "log_loss", "recall:dent", "precision:dent", "f1:dent", "recall:hole: deep",
)  # fmt: skip


def metric_of(metric: str, logits: np.ndarray, targets: np.ndarray) -> float:
    """The metric by scikit-learn's own functions."""
    preds, probs, every = logits.argmax(1), softmax(logits.astype(np.float64), 1), range(len(NAMES))
    kind, _, name = metric.partition(":")
    if name:
        judge: Any = {"recall": sk.recall_score, "precision": sk.precision_score, "f1": sk.f1_score}[kind]
        return float(judge(targets, preds, labels=[NAMES.index(name)], average="macro", zero_division=0))
    return float(
        {
            "accuracy": lambda: sk.accuracy_score(targets, preds),
            "balanced_accuracy": lambda: sk.recall_score(targets, preds, labels=np.unique(targets), average="macro", zero_division=0),
            "f1_macro": lambda: sk.f1_score(targets, preds, average="macro", zero_division=0),
            "auroc_macro": lambda: np.mean([sk.roc_auc_score(targets == c, probs[:, c]) for c in every if 0 < (targets == c).mean() < 1]),
            "log_loss": lambda: sk.log_loss(targets, probs, labels=every),
        }[metric]()
    )


def models(seed: int, n: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of two similar models, and targets."""
    rng = np.random.default_rng(seed)
    targets = rng.choice(len(NAMES), n, p=SHARES)
    first = np.eye(len(NAMES))[targets] * 2 + rng.normal(size=(n, len(NAMES)))
    return first, first + rng.normal(scale=noise, size=first.shape), targets


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), metric=st.sampled_from(METRICS))
def test_the_mean_of_the_scores_is_the_metric(seed: int, n: int, metric: str) -> None:
    logits, _, targets = models(seed, n, 0)
    if metric == "auroc_macro" and len(np.unique(targets)) == 1:
        return
    scores = image_scores(metric, logits, targets, NAMES)
    assert scores.shape == (n,)
    assert scores.mean() == pytest.approx(metric_of(metric, logits, targets), abs=1e-9)
    if ":" in metric:
        measured = class_metric(metric, logits, targets, NAMES)
        assert measured.name == metric
        assert measured.value == pytest.approx(100 * scores.mean(), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_the_paired_interval_is_that_of_a_bootstrap_of_the_metric(metric: str) -> None:
    before, after, targets = models(1, 900, 0.9)
    rng, drawn = np.random.default_rng(2), []
    for _ in range(400):
        rows = rng.integers(0, len(targets), len(targets))
        drawn.append(metric_of(metric, before[rows], targets[rows]) - metric_of(metric, after[rows], targets[rows]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    scores = (image_scores(metric, logits, targets, NAMES) for logits in (before, after))
    found = paired_difference(*scores, images=effective_images(metric, targets, NAMES))
    assert found.value == pytest.approx(metric_of(metric, before, targets) - metric_of(metric, after, targets), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.2 * (high - low))


@pytest.mark.parametrize("metric", ["recall:hole: deep", "f1:hole: deep", "precision:hole: deep"])
def test_models_that_agree_on_a_few_images_are_not_known_to_be_equal(metric: str) -> None:
    """Twelve images of a class among hundreds: the interval is that of the paired proportions of these twelve."""
    targets = np.repeat([0, 3], [400, 12])
    logits = np.eye(4)[targets]
    scores = image_scores(metric, logits, targets, NAMES)
    found = paired_difference(scores, scores, images=effective_images(metric, targets, NAMES))
    of_twelve = paired_difference(np.ones(12), np.ones(12))
    assert found == pytest.approx(of_twelve)
    assert found.high > 0.15


def test_effective_images_weigh_rare_classes() -> None:
    even, uneven = np.repeat(range(4), 25), np.repeat(range(4), [85, 5, 5, 5])
    assert effective_images("balanced_accuracy", even, NAMES) == pytest.approx(100)
    assert effective_images("f1_macro", uneven, NAMES) == pytest.approx(16 / (1 / 85 + 3 / 5))
    assert effective_images("recall:dent", uneven, NAMES) == 5
    assert effective_images("accuracy", uneven, NAMES) is None


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro", "auroc_macro", "recall:dent", "precision:dent"])
def test_guessing_is_what_classes_drawn_by_their_frequency_reach(metric: str) -> None:
    rng = np.random.default_rng(0)
    targets = rng.choice(4, 40_000, p=SHARES)
    drawn = np.eye(4)[rng.permutation(targets)] + 1e-3 * rng.random((len(targets), 4))
    assert guessing_score(metric, targets, NAMES) == pytest.approx(metric_of(metric, drawn, targets), abs=0.012)


def test_guessing_of_other_metrics() -> None:
    targets = np.repeat(range(4), [57, 27, 12, 4])
    assert guessing_score("accuracy", targets, NAMES) == 0.57
    constant = np.tile(np.log(np.bincount(targets) / 100), (100, 1))
    assert guessing_score("log_loss", targets, NAMES) == pytest.approx(metric_of("log_loss", constant, targets))
    dents = np.tile(np.eye(4)[2], (100, 1))
    assert guessing_score("f1:dent", targets, NAMES) == pytest.approx(metric_of("f1:dent", dents, targets))


def test_metrics_of_classes_without_images_are_not_defined() -> None:
    with pytest.raises(DataError, match="no image of the class 'dent'"):
        guessing_score("recall:dent", np.array([0, 1, 3]), NAMES)
    with pytest.raises(DataError, match="one class only"):
        guessing_score("auroc_macro", np.array([1, 1]), NAMES)


@pytest.mark.parametrize(("lost", "images"), [(2, 200), (7, 100), (0, 30)])
def test_a_drop_that_equals_its_limit_does_not_exceed_it(lost: int, images: int) -> None:
    targets = np.repeat([2, 0], [images, 400])
    before, after = np.eye(4)[targets], np.eye(4)[np.where(np.arange(len(targets)) < lost, 1, targets)]
    scores = [image_scores("recall:dent", logits, targets, NAMES) for logits in (before, after)]
    drop = Metric("recall:dent").drop(paired_difference(*scores, images=float(images)), len(targets))
    assert drop.value == 100 * lost / images
