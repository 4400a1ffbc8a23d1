from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from planish.evaluation.statistics.intervals import (
    bootstrap_mean,
    mcnemar,
    mean_over_seeds,
    over_folds,
    over_launches,
    over_seeds,
    paired_difference,
    paired_ratio,
    proportion,
)


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


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shares", [(0.5, 0.0, 0.5), (0.3, 0.5, 0.2), (0.1, 0.8, 0.1), (0.02, 0.96, 0.02), (0.8, 0.2, 0.0)])
def test_intervals_over_seeds_cover_at_least_what_they_say(seeds: int, shares: tuple[float, float, float]) -> None:
    """Images, seeds and the rest as sources of variance, from images alone to seeds alone. With degrees of freedom after Welch and
    Satterthwaite 87 % of the 95 % intervals over two seeds held where seeds made most of the difference."""
    rng, images, truth = np.random.default_rng(seeds), 50, 0.01
    of_images, of_seeds, rest = (0.02 * share**0.5 for share in shares)
    found = []
    for _ in range(1200):
        difference = truth + rng.normal(0, of_images * images**0.5, images) + rng.normal(0, of_seeds, (seeds, 1)) * seeds**0.5
        difference = difference + rng.normal(0, rest, (seeds, images)) * (seeds * images) ** 0.5
        found.append(over_seeds(difference, np.zeros_like(difference))[1:])
    assert covered(found, truth) >= 0.94


def test_one_seed_tells_nothing_of_others() -> None:
    assert over_seeds(np.ones((1, 500)), np.zeros((1, 500))) == (1, -1, 1)
    assert mean_over_seeds(np.ones(500)) == (1, 0, 1)


def test_images_that_never_differed_are_not_certain_to_be_equal() -> None:
    same = np.ones((3, 100))
    interval = over_seeds(same, same)
    assert 0.01 < interval.high == -interval.low < 0.04, "the rule of three says 3 in 100"


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_intervals_over_folds_cover_where_networks_differ_more_than_images_explain(folds: int) -> None:
    """The 95 % intervals over two folds held in 86 % of cases, over three in 92 %."""
    rng, found, fold_of = np.random.default_rng(folds), [], np.arange(3000)[None] % folds
    for _ in range(1000):
        accuracy = np.clip(rng.normal(0.7, 0.05, folds), 0, 1)
        found.append(over_folds(rng.random(3000) < accuracy[fold_of[0]], fold_of)[1:])
    assert covered(found, 0.7) >= 0.93


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("skill", [0.0, 0.4])
def test_the_gain_of_the_one_ensemble_of_all_seeds_is_covered(seeds: int, skill: float) -> None:
    """There is one such ensemble, paired with each of its members: how good these are cancels, so the members' spread is enough."""
    rng, classes = np.random.default_rng(1), 5

    def gains(images: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.integers(0, classes, images)
        logits = np.eye(classes)[targets] * (1.6 + rng.normal(0, skill, (seeds, 1, 1))) + rng.normal(0, 1, (images, classes))
        probs = special.softmax(logits + rng.normal(0, 1, (seeds, images, classes)), axis=-1)
        single = (probs.argmax(-1) == targets).astype(float)
        return np.broadcast_to(probs.mean(axis=0).argmax(-1) == targets, single.shape).astype(float), single

    truth = float(np.mean([together.mean() - single.mean() for together, single in (gains(2000) for _ in range(150))]))
    assert covered([over_seeds(*gains(200))[1:] for _ in range(200)], truth) >= 0.95
