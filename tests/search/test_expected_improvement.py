"""The choice of the next training, against outcomes drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from planish.search.trials.expected_improvement import best_choice, success
from planish.search.trials.prediction import Normal


def odds(*certain: tuple[float, ...]) -> np.ndarray:
    """Probabilities that are the same in each quantile, ``(4, trials, durations)``."""
    return np.repeat(np.array(certain, float)[None], 4, 0)


def test_success_is_the_probability_that_a_noisy_measurement_is_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    drops, error = Normal(np.log([0.8]), np.array([0.6])), 0.3
    drawn = np.exp(rng.normal(np.log(0.8), 0.6, 200_000)) + rng.normal(0, error, 200_000)
    assert success(np.exp(drops.quantiles()), 1.0, error).mean() == pytest.approx((drawn <= 1).mean(), abs=0.01)
    assert success(np.array([0.5, 1.5]), 1.0, 0.0).tolist() == [1.0, 0.0]


def test_a_sure_gain_comes_first_and_a_bold_one_in_the_rest_of_the_time() -> None:
    """The mild one needs a tenth of the time; the bold one wins half of the time, with hardly less time for it."""
    mild, bold = (0.95, 0.97), (0.1, 0.5)
    choice = best_choice([0.5, 1.5], odds(mild, bold), odds((0.97, 0), (0.48, 0)), 0.0)
    assert (choice.trial, choice.duration) == (0, 0)
    assert choice.improvement == pytest.approx(0.95 * (0.5 + 0.48 * 1.0) + 0.05 * 0.48 * 1.5)


def test_all_the_time_goes_to_a_bold_trial_that_needs_it() -> None:
    choice = best_choice([0.1, 1.5], odds((0.9, 0.9), (0.0, 0.8)), odds((0.9, 0), (0.1, 0)), 0.0)
    assert (choice.trial, choice.duration) == (1, 1)
    assert choice.improvement == pytest.approx(0.8 * 1.5)


def test_what_is_no_better_than_the_best_so_far_brings_nothing() -> None:
    choice = best_choice([0.5, 1.0], odds((1.0, 1.0), (0.0, 0.0)), odds((1.0, 0), (0.0, 0)), 0.5)
    assert choice.improvement == 0
    assert choice.duration == 1, "of equally good trainings the longest"


def test_the_improvement_is_what_such_a_policy_gains_on_average() -> None:
    """Train a for a while; go on with it if that fails, else train b: against outcomes drawn at random."""
    rng = np.random.default_rng(1)
    n, values, best = 100_000, [0.6, 0.8], 0.1
    z = rng.normal(size=(2, n))
    a_short, a_long = np.exp(0.1 + 0.5 * z[0]), np.exp(-0.4 + 0.5 * z[0])  # a trial that recovers badly does so in both
    b = np.exp(0.4 + 0.5 * z[1])
    within = np.stack([a_short, a_long, b, b]).T.reshape(n, 2, 2) <= 1
    policy = np.where(a_short <= 1, np.where(b <= 1, 0.7, 0.5), np.where(a_long <= 1, 0.5, 0.0))
    quantiles = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    drops = np.stack([np.exp(0.1 + 0.5 * quantiles), np.exp(-0.4 + 0.5 * quantiles), *[np.exp(0.4 + 0.5 * quantiles)] * 2], -1)
    rest = np.zeros((400, 2, 2))
    rest[:, 0, 0], rest[:, 1, 0] = np.exp(-0.1 + 0.5 * quantiles) <= 1, drops[:, 2] <= 1
    choice = best_choice(values, (drops <= 1).reshape(400, 2, 2).astype(float), rest, best)
    assert choice.trial == 0
    assert choice.duration == 0
    assert choice.improvement == pytest.approx(policy.mean(), abs=0.01)
    assert within[:, 0, 0].mean() == pytest.approx((drops[:, 0] <= 1).mean(), abs=0.01)
