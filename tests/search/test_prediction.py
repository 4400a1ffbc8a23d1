"""Predictions of drops after training, and of levels that were not screened."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from planish.search.trials.prediction import Recovery, RecoveryPrior, ScreenedLevel, condition, predict_levels, predict_recoveries
from planish.search.trials.proposals import Level

MILD, STRONG = Level(1.5), Level(4.0)


def test_conditioning_is_bayesian_linear_regression() -> None:
    """The posterior of the weights in closed form: precision ``prior + X'X / noise^2``."""
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(6, 2)), rng.normal(size=6), rng.normal(size=(3, 2))
    prior, mean, noise = np.diag([0.5, 2.0]), np.array([0.3, -1.0]), 0.4
    covariance = np.linalg.inv(np.linalg.inv(prior) + x.T @ x / noise**2)
    weights = covariance @ (np.linalg.inv(prior) @ mean + x.T @ y / noise**2)
    everything = np.vstack([x, new])
    found = condition(everything @ prior @ everything.T, everything @ mean, y, np.full(6, noise))
    assert found.mean == pytest.approx(new @ weights, abs=1e-6)
    assert found.deviation == pytest.approx(np.sqrt(np.diag(new @ covariance @ new.T)), abs=1e-6)


def after(
    level: Level, before: float, steps: float, *observed: Recovery, name: str = "new", uncertainty: float = 0.0
) -> tuple[float, float]:
    """Median of the drop, and standard deviation of its log."""
    found = predict_recoveries(observed, [Recovery(name, level, before, steps, uncertainty=uncertainty)])
    return math.exp(found.mean[0]), found.deviation[0]


def test_more_training_and_less_to_recover_leave_a_smaller_drop() -> None:
    assert after(MILD, 8, 0)[0] == pytest.approx(8, rel=0.01)
    drops = [after(MILD, 8, steps)[0] for steps in (50, 200, 800)]
    assert drops == sorted(drops, reverse=True)
    assert after(MILD, 4, 200)[0] == pytest.approx(after(MILD, 8, 200)[0] / 2)


def test_an_observed_trial_goes_on_from_there_and_says_less_of_others() -> None:
    seen = Recovery("seen", STRONG, 20, 200, after=12, error=0.3)  # recovers badly
    usual, spread = after(STRONG, 20, 200)
    assert usual < 8
    own, own_spread = after(STRONG, 20, 200, seen, name="seen")
    assert own == pytest.approx(12, rel=0.15)
    assert usual < after(STRONG, 20, 200, seen)[0] < own
    assert own_spread < after(STRONG, 20, 200, seen)[1] < spread
    assert after(STRONG, 20, 800, seen, name="seen")[0] < own


def test_nothing_lost_is_no_error_and_what_is_uncertain_stays_so() -> None:
    seen = Recovery("seen", MILD, 1.0, 100, after=-0.4, error=0.5)
    assert 0 < after(MILD, 1.0, 100, seen, name="seen")[0] < 1
    assert after(MILD, -0.5, 100)[0] < 0.3
    assert after(MILD, 4, 100, uncertainty=2.0)[1] == pytest.approx(math.hypot(2.0, after(MILD, 4, 100)[1]))


SPARE = RecoveryPrior(error=7, parameters=2_000_000, side=224, trained_before=False)


def smaller(name: str, level: Level, before: float, steps: float, after: float = math.nan) -> Recovery:
    """A recovery from an original with an error of 7 points."""
    return Recovery(name, level, before, steps, after, error=0.3, floor=SPARE.floor(level, 1.0))


def test_a_small_network_does_not_recover_whatever_its_training() -> None:
    half, bold = Level(2.0), Level(resolution=0.5, blocks=0.5)
    few, many, most = (predict_recoveries([], [smaller("bold", bold, 70, steps)]).mean[0] for steps in (1_000, 1e5, 1e7))
    assert few > many > most > math.log(SPARE.floor(bold, 1.0))
    assert most - math.log(SPARE.floor(bold, 1.0)) < 0.1, "a floor and nothing above it"
    assert SPARE.floor(half, 1.0) == pytest.approx(7 * (2**0.08 - 1))
    assert SPARE.floor(bold, 1.0) == pytest.approx(7 * (8**0.08 - 1))
    assert SPARE.floor(Level(student="resnet8"), 4.0) == pytest.approx(7 * (4**0.08 - 1))
    assert math.exp(predict_recoveries([], [smaller("bold", bold, 0.5, 1e5)]).mean[0]) < 0.5, "training does not make it worse"


@pytest.mark.parametrize(
    ("level", "lost"),
    [
        (Level(blocks=0.3), 0.7), (Level(resolution=0.875), 1.8), (Level(resolution=0.75), 3.1),
        (Level(1.15, 0.75), 3.4), (Level(resolution=0.625, blocks=0.5), 9.7),
    ],
)  # fmt: skip
def test_the_floor_of_a_small_network_is_near_what_was_measured(level: Level, lost: float) -> None:
    """A ResNet-20 of 92.8 % on validation images of 32 pixels, after 4 to 12 epochs."""
    prior = RecoveryPrior(error=7.2, parameters=275_000, side=32, trained_before=True)
    assert prior.floor(level, 1.0) == pytest.approx(lost, rel=0.5)


@pytest.mark.parametrize(
    ("level", "before", "steps", "lost"),
    [
        (Level(blocks=0.5), 26.2, 4_100, 9.4), (Level(blocks=0.3), 3.5, 2_400, 1.8), (Level(blocks=0.3), 3.5, 19_000, 0.7),
        (Level(1.5), 5.2, 1_700, 1.3), (Level(resolution=0.75), 11.4, 12_100, 3.1), (Level(resolution=0.875), 6.7, 10_100, 1.8),
        (Level(resolution=0.625, blocks=0.5), 30.8, 10_700, 9.7),
    ],
)  # fmt: skip
def test_what_a_trained_original_lost_was_not_unlikely(level: Level, before: float, steps: float, lost: float) -> None:
    """The recoveries of the same ResNet-20 in searches, in steps of 32 images."""
    prior = RecoveryPrior(error=7.2, parameters=275_000, side=32, trained_before=True)
    found = predict_recoveries([], [Recovery("a", level, before, steps, floor=prior.floor(level, 1.0), slope=prior.slope)])
    assert abs(math.log(lost) - found.mean[0]) < 1.3 * found.deviation[0]
    spare = RecoveryPrior(error=7.2, parameters=2_000_000, side=224, trained_before=False)
    optimistic = predict_recoveries([], [Recovery("a", level, before, steps, floor=spare.floor(level, 1.0), slope=spare.slope)])
    assert optimistic.mean[0] < found.mean[0]


def test_large_networks_trained_here_and_large_images_have_low_floors() -> None:
    small = RecoveryPrior(error=7, parameters=300_000, side=224, trained_before=True)
    halved, fewer_pixels = Level(2.0), Level(resolution=0.75)
    for other in (replace(small, parameters=20_000_000), replace(small, trained_before=False)):
        assert other.floor(halved, 1.0) < small.floor(halved, 1.0) / 3
    assert replace(small, side=32).floor(fewer_pixels, 1.0) > 2 * small.floor(fewer_pixels, 1.0)
    assert replace(small, side=32).floor(halved, 1.0) == small.floor(halved, 1.0) == replace(small, side=448).floor(halved, 1.0)


@pytest.mark.parametrize(("lost", "others"), [(11.0, 2.0), (0.5, 0.8)])
def test_how_much_one_network_lost_tells_the_floor_of_another(lost: float, others: float) -> None:
    """An original without capacity to spare loses several times as much at each size; one with capacity to spare loses nothing."""
    seen, new = smaller("bold", Level(resolution=0.5, blocks=0.5), 70, 24_000, lost), smaller("mild", Level(3.0), 30, 1e5)
    before, after = predict_recoveries([], [new]).mean[0], predict_recoveries([seen], [new]).mean[0]
    assert (math.exp(after - before) > others) == (others > 1)
    assert (math.exp(after - before) < others) == (others < 1)


def network(level: Level) -> ScreenedLevel:
    """A network of which 15 % of the time is not in layers, and that loses more the smaller it is."""
    return ScreenedLevel(level, 1 / (0.15 + 0.85 * level.share), (1 - level.share) ** 2 * 0.7)


def test_levels_in_between_are_predicted_from_screened_ones() -> None:
    first = [network(level) for level in (Level(1.5), Level(2.5), Level(4.0), Level(1.0, 0.75), Level(2.5, 0.75))]
    wanted = [Level(2.0), Level(1.3, 0.875), Level(3.0, 0.875)]
    speed, drop = predict_levels(first, wanted)
    for i, level in enumerate(wanted):
        real = network(level)
        assert math.exp(speed.mean[i]) == pytest.approx(real.speedup, rel=0.1)
        share = 1 / (1 + math.exp(-drop.mean[i]))
        assert share == pytest.approx(real.drop, rel=0.35)
    far = predict_levels(first, [Level(2.5, blocks=0.5)])[1]
    assert far.deviation[0] > 2 * drop.deviation.max(), "blocks were never removed"


def test_without_a_screened_level_the_prior_is_sensible() -> None:
    speed, drop = predict_levels([], [Level(1.15), Level(2.0), Level(6.0)])
    assert 1 < math.exp(speed.mean[0]) < math.exp(speed.mean[1]) < math.exp(speed.mean[2]) < 6
    assert drop.mean[0] < drop.mean[1] < drop.mean[2]
