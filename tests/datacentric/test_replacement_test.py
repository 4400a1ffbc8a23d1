"""How often a network that should not replace the served one does: simulated, beside what comparing points alone would do."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from planish.datacentric.replacement_test import Gate
from planish.errors import DataError, GoalError
from planish.evaluation.statistics.paired_tests import images_to_show_better, images_to_show_not_worse, p_better, p_not_worse

ATTEMPTS = 20_000


def attempts(images: int, won: float, lost: float, seed: int) -> np.ndarray:
    """Images that only the new network has right, and only the old one, of each attempt ``(ATTEMPTS, 2)``, where those are their shares."""
    return np.random.default_rng(seed).multinomial(images, [won, lost, 1 - won - lost], ATTEMPTS)[:, :2]


def scores(images: int, won: int, lost: int) -> tuple[np.ndarray, np.ndarray]:
    new = np.ones(images)
    new[won : won + lost] = 0
    old = np.ones(images)
    old[:won] = 0
    return new, old


def passed(gate: Gate, old: tuple[int, float, float], new: tuple[int, float, float]) -> tuple[float, float]:
    """How often a network passes, and how often it has more points on new images and no fewer on old ones.

    Args:
        gate: as it decides.
        old: images, and the shares that only the new and only the old network has right.
        new: likewise.
    """

    @cache
    def shown(of_new: bool, won: int, lost: int) -> bool:
        same = np.ones(2)  # of the other kind of images, which are not asked about
        one, two = scores((new if of_new else old)[0], won, lost)
        is_new = np.concatenate([np.full(len(one), of_new), np.full(2, not of_new)])
        p_values = gate.p_values(np.concatenate([one, same]), np.concatenate([two, same]), is_new)
        return p_values["new" if of_new else "old"] <= gate.alpha

    counts = attempts(*old, seed=1), attempts(*new, seed=2)
    passes = [shown(False, *map(int, on_old)) and shown(True, *map(int, on_new)) for on_old, on_new in zip(*counts, strict=True)]
    by_points = (counts[0][:, 0] >= counts[0][:, 1]) & (counts[1][:, 0] > counts[1][:, 1])
    return float(np.mean(passes)), float(np.mean(by_points))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((150, 0.05, 0.05), (15, 0.1, 0.1)),
        ((1000, 0.05, 0.05), (100, 0.1, 0.1)),
        ((1000, 0.1, 0.1), (1000, 0.1, 0.1)),
        ((5000, 0.01, 0.01), (500, 0.02, 0.02)),
    ],
)
def test_an_equally_good_network_hardly_ever_replaces(old: tuple[int, float, float], new: tuple[int, float, float]) -> None:
    by_gate, by_points = passed(Gate(), old, new)
    print(f"equally good: {old} {new}: gate {by_gate:.2%}, points {by_points:.2%}")
    assert by_gate <= 0.05
    assert by_points > 0.13


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1000, 0.04, 0.06), (500, 0.3, 0.02)),  # better on new images, worse by just the margin on old ones
        ((5000, 0.02, 0.04), (500, 0.3, 0.02)),
        ((200, 0.01, 0.03), (100, 0.5, 0.0)),
        ((5000, 0.1, 0.02), (500, 0.1, 0.1)),  # better on old ones, no better on new ones
        ((5000, 0.1, 0.02), (30, 0.3, 0.3)),
    ],
)
def test_one_that_fails_either_demand_passes_as_seldom_as_stated(old: tuple[int, float, float], new: tuple[int, float, float]) -> None:
    by_gate, by_points = passed(Gate(), old, new)
    print(f"fails one demand: {old} {new}: gate {by_gate:.2%}, points {by_points:.2%}")
    assert by_gate <= 0.05 + 3 * (0.05 * 0.95 / ATTEMPTS) ** 0.5 + 0.005, "Tango's test is approximate, by half a percent here"


def test_one_that_is_much_better_on_new_images_passes() -> None:
    by_gate, _ = passed(Gate(), (1500, 0.03, 0.03), (100, 0.2, 0.05))
    print(f"better on new by 15 points, as good on old: gate {by_gate:.2%}")
    assert by_gate > 0.8


@pytest.mark.parametrize(("won", "lost", "images", "margin"), [(3, 1, 40, 0.05), (0, 0, 45, 0.02), (5, 9, 100, 0.03), (0, 7, 60, 0.1)])
def test_tangos_p_value_is_that_of_the_most_likely_shares(won: int, lost: int, images: int, margin: float) -> None:
    def unlikeliness(only_old: float) -> float:
        shares = np.maximum([only_old - margin, only_old, 1 + margin - 2 * only_old], 1e-300)
        return float(-(np.array([won, lost, images - won - lost]) * np.log(shares)).sum())

    only_old = minimize_scalar(unlikeliness, bounds=(margin, (1 + margin) / 2), method="bounded", options={"xatol": 1e-12}).x
    z = (won - lost + images * margin) / (images * (2 * only_old - margin - margin**2)) ** 0.5
    assert p_not_worse(*scores(images, won, lost), margin) == pytest.approx(norm.sf(z), abs=1e-6)


def test_exact_p_values_by_hand() -> None:
    assert p_better(*scores(40, 5, 0)) == pytest.approx(1 / 32)
    assert p_better(*scores(40, 2, 1)) == pytest.approx(0.5)
    assert p_better(*scores(40, 0, 0)) == 1


@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 0.02), (0.01, 0.05), (0.2, 0.1)])
def test_how_few_images_can_show_anything(alpha: float, margin: float) -> None:
    least = images_to_show_better(alpha)
    assert p_better(*scores(least, least, 0)) <= alpha < p_better(*scores(least, least - 1, 0))
    least = images_to_show_not_worse(alpha, margin)
    assert p_not_worse(*scores(least, 0, 0), margin) <= alpha < p_not_worse(*scores(least - 1, 0, 0), margin)


def test_too_few_images_are_refused_before_anything_is_trained() -> None:
    Gate().require(5, 133)
    with pytest.raises(DataError, match="4 new images are for testing"):
        Gate().require(4, 1000)
    with pytest.raises(DataError, match=r"45 old images are for testing.*at least 133") as caught:
        Gate().require(50, 45)
    assert "--max-drop 6" in caught.value.fix
    Gate(max_drop=6).require(50, 45)
    for wrong in ({"alpha": 0.0}, {"alpha": 5.0}, {"max_drop": 0.0}, {"max_drop": 100.0}):
        with pytest.raises(GoalError):
            Gate(**wrong)


def test_a_small_error_is_not_told_as_none() -> None:
    with pytest.raises(DataError, match=r"an error of 0\.1%, where it is right on 10 more"):
        Gate(alpha=0.001).require(9, 10_000)
