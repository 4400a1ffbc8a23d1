from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.special import softmax

from planish.evaluation.errors.confident_errors import confusions, worst_mistakes
from planish.evaluation.statistics.intervals import proportion


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 4, 300)
    logits = 2 * rng.normal(size=(300, 4))
    logits[np.arange(300), targets] += 1
    return logits, targets


def test_the_surest_mistakes_come_first(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = drawn
    confidence = softmax(logits, axis=1).max(1)
    wrong = [i for i in range(300) if logits[i].argmax() != targets[i]]
    expected = sorted(wrong, key=lambda i: -confidence[i])
    assert worst_mistakes(logits, targets, 10_000).tolist() == expected
    assert worst_mistakes(logits, targets, 3).tolist() == expected[:3]
    assert worst_mistakes(np.eye(4)[targets], targets).tolist() == []


def test_equally_sure_mistakes_keep_the_order_of_the_images() -> None:
    assert worst_mistakes([[0, 1], [0, 1], [0, 3]], [0, 0, 0]).tolist() == [2, 0, 1]


def test_the_classes_mixed_up_most_are_counted(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    logits, targets = drawn
    preds = logits.argmax(1)
    expected = Counter((t, p) for t, p in zip(targets.tolist(), preds.tolist(), strict=True) if t != p)
    found = confusions(preds, targets, "abcd", 100)
    assert {("abcd".index(c.target), "abcd".index(c.prediction)): c.count for c in found} == dict(expected)
    assert [c.count for c in found] == sorted(expected.values(), reverse=True)
    for c in found:
        n = int((targets == "abcd".index(c.target)).sum())
        assert c.share.n == n
        assert c.share.value == pytest.approx(100 * c.count / n)
        assert (c.share.low, c.share.high) == pytest.approx([100 * x for x in proportion(c.count, n)])
    assert confusions(preds, targets, "abcd", 2) == found[:2]


def test_no_mistakes_no_confusions() -> None:
    assert confusions([0, 1, 2], [0, 1, 2], "abc") == []
