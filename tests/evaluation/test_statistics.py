from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from planish.evaluation.statistics import bootstrap_mean, mcnemar, over_launches, paired_difference, paired_ratio, proportion


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (880, 1000)])
def test_proportion_is_wilsons_formula(successes: int, n: int) -> None:
    p, z = successes / n, stats.norm.ppf(0.975)
    centre, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert proportion(successes, n) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_proportion_of_nothing_is_anything() -> None:
    assert proportion(0, 0) == (0, 1)


def test_bootstrap_mean_agrees_with_scipy_and_covers() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(size=400)
    reference = stats.bootstrap((x,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    value, low, high = bootstrap_mean(x)
    assert value == x.mean()
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.01)
    intervals = [bootstrap_mean(rng.exponential(size=100), seed)[1:] for seed in range(300)]
    assert 0.90 <= covered(intervals, 1.0) <= 0.98
    assert bootstrap_mean([2.0, 2.0]) == (2, 2, 2)


@pytest.mark.parametrize(("n", "gained", "lost"), [(100, 0.1, 0.15), (2000, 0.02, 0.03), (300, 0.0, 0.0), (200, 0.3, 0.3)])
def test_paired_difference_of_right_and_wrong_covers(n: int, gained: float, lost: float) -> None:
    rng, intervals = np.random.default_rng(0), []
    for _ in range(400):
        kind = rng.choice(3, n, p=[gained, lost, 1 - gained - lost])
        a, b = np.where(kind == 0, 1, np.where(kind == 1, 0, 1)), np.where(kind == 0, 0, 1)
        value, low, high = paired_difference(a, b)
        assert value == pytest.approx((a - b).mean())
        assert low <= value <= high
        intervals.append((low, high))
    assert covered(intervals, gained - lost) >= 0.92
    assert low < 0 < high or gained != lost  # models that never differed are not certain to be equal


def test_paired_difference_of_other_scores_is_paired() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 300)  # how hard an image is moves both models alike, and must cancel
    intervals = [paired_difference(hard + rng.normal(0.5, 1, 300), hard, seed)[1:] for seed in range(200)]
    assert 0.90 <= covered(intervals, 0.5) <= 0.99
    assert max(high - low for low, high in intervals) < 0.4
    with pytest.raises(ValueError, match="one shape"):
        paired_difference([1, 0], [1])


def test_mcnemar_is_the_binomial_test_of_discordant_pairs() -> None:
    a = np.array([1] * 8 + [0] * 2 + [1] * 50)
    b = np.array([0] * 8 + [1] * 2 + [1] * 50)
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(a, a) == 1


def launches(
    rng: np.random.Generator, ratio: float, count: int, rounds: int, launch_sd: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Timings with what makes them hard: drift shared by both, outliers, and a luck that each process keeps."""
    a, b = [], []
    for _ in range(count):
        drift = np.exp(np.cumsum(rng.normal(0, 0.02, rounds)))
        noise = rng.normal(0, 0.03, (2, rounds)) + (rng.random((2, rounds)) < 0.05) * rng.exponential(1, (2, rounds))
        lucky, unlucky = np.exp(rng.normal(0, launch_sd, 2))
        a.append(ratio * drift * lucky * np.exp(noise[0]))
        b.append(drift * unlucky * np.exp(noise[1]))
    return a, b


@pytest.mark.parametrize("launch_sd", [0.0, 0.02])
def test_paired_ratio_covers_in_spite_of_lucky_launches(launch_sd: float) -> None:
    rng = np.random.default_rng(0)
    found = [paired_ratio(*launches(rng, 1.3, 4, 40, launch_sd)) for _ in range(600)]
    assert 0.92 <= covered([(low, high) for _, low, high in found], 1.3) <= 0.98
    assert np.median([value for value, _, _ in found]) == pytest.approx(1.3, rel=0.01)


def test_one_launch_is_bootstrapped_over_rounds() -> None:
    rng = np.random.default_rng(0)
    found = [paired_ratio(*launches(rng, 1.0, 1, 40, 0.0), seed=seed)[1:] for seed in range(300)]
    assert 0.90 <= covered(found, 1.0) <= 0.99


def test_order_of_the_ratio() -> None:
    assert paired_ratio([[2.0, 2.0], [2.0]], [[1.0, 1.0], [1.0]]) == pytest.approx((2, 2, 2))
    assert over_launches([[4.0], [1.0]]).value == pytest.approx(2)
