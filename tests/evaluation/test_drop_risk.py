"""The risk that a drop is above a limit, against exact enumeration of what could have been measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from planish.evaluation.statistics.drop_risk import drop_risk, images_needed, risk_of_interval
from planish.measurement import Metric

ACCURACY = Metric("accuracy")


def risk_of(lost: int, gained: int, images: int, limit_points: float = 1.0) -> float:
    """The risk, 0 to 1, where the original alone is right on ``lost`` images, and the model alone on ``gained``."""
    original, model = np.ones(images), np.ones(images)
    original[:gained], model[gained : gained + lost] = 0, 0
    return drop_risk(original, model, limit_points, ACCURACY).value / 100


def outcomes(images: int, lost: float, gained: float) -> list[tuple[int, int, float]]:
    """All likely counts of lost and gained images with their exact probability, of models that lose and gain these shares."""
    most = math.ceil(images * (lost + gained) + 6 * math.sqrt(images * (lost + gained)) + 4)
    found = []
    for i in range(most):
        for j in range(most):
            chance = stats.binom.pmf(i, images, lost) * stats.binom.pmf(j, images, gained / (1 - lost))
            if chance > 1e-5:
                found.append((i, j, float(chance)))
    return found


@pytest.mark.parametrize(("images", "discordant", "limit"), [(200, 0.03, 1), (400, 0.015, 1), (400, 0.06, 2), (1000, 0.01, 0.5)])
def test_a_model_at_the_limit_is_seldom_accepted(images: int, discordant: float, limit: float) -> None:
    """Of models whose true drop is the limit, no more than the accepted share are accepted, but for the steps of whole images."""
    share = limit / 100
    at_limit = outcomes(images, (discordant + share) / 2, (discordant - share) / 2)
    risks = [(risk_of(lost, gained, images, limit), chance) for lost, gained, chance in at_limit]
    for accepted in (0.05, 0.1, 0.2, 0.3):
        taken = sum(chance for risk, chance in risks if risk <= accepted)
        assert 0.6 * accepted <= taken <= accepted + 0.03


@pytest.mark.parametrize("images", [50, 100, 393, 1000])
def test_a_model_that_only_loses_has_at_least_the_exact_risk(images: int) -> None:
    """The probability of so few lost images, if one in a hundred is lost, is known exactly; without any lost image it is not 0."""
    for lost in (0, 1, 3):
        exact = sum(math.comb(images, k) * 0.01**k * 0.99 ** (images - k) for k in range(lost + 1))
        assert exact - 1e-9 <= risk_of(lost, 0, images) <= exact + 0.06


def test_the_case_of_an_issue() -> None:
    """3.7 times as fast, no points lost on 393 images, eight won and eight lost: one standard error is more than a point."""
    risk = risk_of(8, 8, 393)
    at_limit = outcomes(393, 0.0254, 0.0154)  # 1 point lost, with as many discordant images
    exact = sum(chance * (0.5 if lost == gained else 1) for lost, gained, chance in at_limit if lost <= gained)
    assert risk == pytest.approx(exact, abs=0.01)
    assert 0.16 < risk < 0.2
    assert risk_of(16, 0, 393) > 0.99
    assert risk_of(0, 16, 393) < 1e-3


@pytest.mark.parametrize(("lost", "gained"), [(8, 8), (5, 4), (0, 0), (20, 18)])
def test_images_needed_are_those_whose_risk_is_accepted(lost: int, gained: int) -> None:
    """As many more images with as many wins and losses have the accepted risk, and a few less do not."""
    images, accepted = 200, 0.01
    needed = images_needed(risk_of(lost, gained, images, 2.0), accepted, images)
    assert images < needed < 100 * images

    def with_images(n: float) -> float:
        return risk_of(round(lost * n / images), round(gained * n / images), round(n), 2.0)

    assert with_images(1.03 * needed) <= accepted < with_images(0.85 * needed)


def test_images_needed_has_bounds() -> None:
    assert images_needed(0.05, 0.1, 393) == 393
    assert images_needed(0.5, 0.1, 393) == math.inf
    assert images_needed(0.4999, 0.1, 393) == math.inf
    assert images_needed(0.18, 0.1, 393) == 780


def test_direction_and_unit_follow_the_metric() -> None:
    rng = np.random.default_rng(0)
    original = rng.normal(10, 1, 300)
    worse = original + rng.normal(0.5, 2, 300)
    error, score = Metric("mean_absolute_error", "mm", higher_is_better=False), Metric("score", "mm")
    assert drop_risk(original, worse, 0.1, error).value > 95
    assert drop_risk(original, worse, 0.1, score).value < 5
    right = np.r_[np.ones(90), np.zeros(10)]
    less = Metric("error_rate", higher_is_better=False)
    assert drop_risk(1 - right, 1 - right[::-1], 1.0, less).value == drop_risk(right, right[::-1], 1.0, ACCURACY).value
    assert drop_risk(right, 1 - right, 100.0, ACCURACY).value == 0, "no more than everything can be lost"


def test_other_scores_keep_the_level() -> None:
    """Scores that are no 0 or 1: a model at the limit has a risk below the accepted one as often as accepted."""
    rng = np.random.default_rng(0)
    shown = []
    for _ in range(300):
        original = rng.uniform(0, 1, 60)
        shown.append(drop_risk(original, original - 0.02 + rng.normal(0, 0.1, 60), 2.0, ACCURACY).value <= 20)
    assert 0.14 <= np.mean(shown) <= 0.26


def test_a_drop_without_an_interval_is_on_one_side() -> None:
    assert risk_of_interval(0.0, (0.0, 0.0), 0.01, 100) == 0
    assert risk_of_interval(0.02, (0.02, 0.02), 0.01, 100) == 1
    assert risk_of_interval(1.0, (0.0, 2.0), 1.0, 100) == pytest.approx(0.5)
    assert risk_of_interval(0.0, (-1.0, 1.0), 1.0, 10**6) == pytest.approx(0.025, abs=1e-3)
