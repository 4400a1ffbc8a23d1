"""Suspected labels: the definition, image by image, and what is found of labels that were changed on purpose."""

from __future__ import annotations

import numpy as np

from planish.evaluation.errors.label_issues import own_confidence, suspected_labels


def test_the_definition_image_by_image() -> None:
    rng = np.random.default_rng(0)
    probs, targets = rng.dirichlet([0.4, 0.4, 0.4, 0.4], 300), rng.integers(0, 4, 300)
    own = [np.mean([probs[i, c] for i in range(300) if targets[i] == c]) for c in range(4)]
    np.testing.assert_allclose(own_confidence(probs, targets), own)
    wanted = []
    for i, given in enumerate(targets):
        best = int(probs[i].argmax())
        if best != given and probs[i, given] < own[given] and probs[i, best] >= own[best]:
            wanted.append((probs[i, best] - probs[i, given], i, best))
    rows, likeliest = suspected_labels(probs, targets)
    assert list(zip(rows.tolist(), likeliest.tolist(), strict=True)) == [(i, best) for _, i, best in sorted(wanted, reverse=True)]


def test_changed_labels_are_found_and_right_ones_are_left_alone() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 2000)
    probs = np.exp(4 * np.eye(5)[truth] + rng.normal(size=(2000, 5)))
    probs /= probs.sum(axis=1, keepdims=True)
    changed = rng.random(2000) < 0.05
    targets = np.where(changed, (truth + rng.integers(1, 5, 2000)) % 5, truth)
    rows, likeliest = suspected_labels(probs, targets)
    assert changed[rows].mean() > 0.4
    assert changed[rows].sum() > 0.6 * changed.sum()
    assert (likeliest == truth[rows])[changed[rows]].mean() > 0.9
    assert changed[rows[:40]].mean() > 0.9, "the most suspicious come first"
    assert len(suspected_labels(probs, truth)[0]) < 0.07 * len(truth)


def test_a_class_without_images_suspects_nobody() -> None:
    rows, _ = suspected_labels(np.array([[0.1, 0.0, 0.9], [0.9, 0.1, 0.0]]), np.array([0, 0]))
    assert rows.tolist() == []
