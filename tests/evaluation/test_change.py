"""The tests for change keep their promise while nothing changes, however the values are distributed, and notice what does."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from planish.evaluation.statistics.change_detection import MixChange, ValueChange

RUNS, REFERENCE, STREAM = 150, 60, 150


def _alarms(make: Callable[[np.random.Generator], tuple[ValueChange | MixChange, np.ndarray]]) -> int:
    """Streams in which the evidence of 1 in 10 was ever seen."""
    found = 0
    for seed in range(RUNS):
        test, stream = make(np.random.default_rng(seed))
        highest = 0.0
        for value in stream:
            test.add(value)
            highest = max(highest, test.log10_evidence)
        found += highest >= 1
    return found


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "few values", "constant"])
def test_numbers_without_a_change_give_few_alarms(kind: str) -> None:
    draw = {
        "normal": lambda rng, n: rng.normal(size=n),
        "heavy tails": lambda rng, n: rng.standard_cauchy(n),
        "few values": lambda rng, n: rng.integers(0, 3, n).astype(float),
        "constant": lambda rng, n: np.full(n, 28.0),
    }[kind]
    alarms = _alarms(lambda rng: (ValueChange(draw(rng, REFERENCE).tolist(), seed=int(rng.integers(1 << 30))), draw(rng, STREAM)))
    assert stats.binomtest(alarms, RUNS, 0.1, alternative="greater").pvalue > 0.001, f"{alarms} of {RUNS}, promised 10 %"


@pytest.mark.parametrize("classes", [2, 10])
def test_classes_without_a_change_give_few_alarms(classes: int) -> None:
    shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()

    def make(rng: np.random.Generator) -> tuple[MixChange, np.ndarray]:
        reference = np.bincount(rng.choice(classes, REFERENCE, p=shares), minlength=classes)
        return MixChange(reference.tolist(), seed=int(rng.integers(1 << 30))), rng.choice(classes, STREAM, p=shares)

    alarms = _alarms(make)
    assert stats.binomtest(alarms, RUNS, 0.1, alternative="greater").pvalue > 0.001, f"{alarms} of {RUNS}, promised 10 %"


def _images_until(test: ValueChange | MixChange, stream: np.ndarray) -> int:
    for count, value in enumerate(stream, 1):
        test.add(value)
        if test.log10_evidence >= 3:
            return count
    raise AssertionError(f"not noticed in {len(stream)} values")


@pytest.mark.parametrize(("mean", "spread", "within"), [(3, 1, 30), (-1, 1, 120), (0, 3, 100), (0, 0.2, 100)])
@pytest.mark.parametrize("before", [0, 2000])
def test_a_change_of_place_or_spread_is_noticed(mean: float, spread: float, within: int, before: int) -> None:
    rng = np.random.default_rng(0)
    test = ValueChange(rng.normal(size=1000).tolist())
    for value in rng.normal(size=before):
        test.add(value)
    assert _images_until(test, rng.normal(mean, spread, 1000)) <= within


def test_a_missing_and_a_frequent_class_are_noticed() -> None:
    rng = np.random.default_rng(0)
    missing, frequent = MixChange([100] * 10), MixChange([100] * 10)
    assert _images_until(missing, rng.integers(1, 10, 1000)) <= 400
    assert _images_until(frequent, np.where(rng.random(1000) < 0.3, 0, rng.integers(0, 10, 1000))) <= 300


def test_a_class_that_the_reference_never_saw_does_not_end_it() -> None:
    rng = np.random.default_rng(0)
    assert _images_until(MixChange([50, 50, 0]), rng.integers(0, 3, 1000)) <= 300
