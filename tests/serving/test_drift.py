"""Drift in streams whose images depend on one another: the promised rate of false alarms holds, and what did change is still found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from planish.errors import GoalError
from planish.export.bundle.folder import REFERENCE
from planish.serving.monitoring.drift import CLASSES, Drift, DriftSettings
from planish.serving.monitoring.thinning import Thinning

DAY, WEEK = 86_400, 604_800
MONDAY = 4 * DAY + 2_900 * WEEK
WEEKS = 60
INDEPENDENT = DriftSettings(correlation_s=0)
Stream = tuple[Any, Any]  # times in seconds since Monday, values


def _ar(rng: np.random.Generator, rho: float, n: int) -> Any:
    noise = rng.normal(size=n) * np.sqrt(1 - rho**2)
    noise[0] = rng.normal()
    return lfilter([1], [1, -rho], noise)


def correlated(rng: np.random.Generator) -> Stream:
    """An image a minute, each correlated by 0.9 with the last."""
    return np.arange(0, WEEK, 60.0), _ar(rng, 0.9, WEEK // 60)


def in_runs(rng: np.random.Generator) -> Stream:
    return np.arange(0, WEEK, 60.0), np.repeat(rng.normal(size=WEEK // 600), 10)


def day_and_night(rng: np.random.Generator) -> Stream:
    times = np.arange(0, WEEK, 60.0)
    return times, np.sqrt(2) * np.sin(2 * np.pi * times / DAY) * np.sqrt(0.8) + rng.normal(size=len(times)) * np.sqrt(0.2)


def long_run(make: Callable[[np.random.Generator], Stream], rng: np.random.Generator) -> list[float]:
    """Independent draws of such a stream's values."""
    return [float(rng.choice(make(rng)[1])) for _ in range(200)] if make is day_and_night else rng.normal(size=200).tolist()


def drift_of(folder: Path, reference: list[float], settings: DriftSettings) -> Drift:
    (folder / REFERENCE).write_text(json.dumps({"schema_version": 1, "values": {"brightness": reference}}))
    return Drift(folder, settings)


def weeks_with_alarm(folder: Path, make: Callable[[np.random.Generator], Stream], settings: DriftSettings, weeks: int = WEEKS) -> int:
    found = 0
    for seed in range(weeks):
        rng = np.random.default_rng(seed)
        drift = drift_of(folder, long_run(make, rng), settings)
        times, values = make(rng)
        for at, value in zip((MONDAY + times).tolist(), values.tolist(), strict=True):
            drift.add({"brightness": value}, at=at)
        assert drift.compared > 100
        found += drift.drifted("brightness")
    return found


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (correlated, DriftSettings(correlation_s=1800)),
        (in_runs, DriftSettings(correlation_s=600)),
        pytest.param(day_and_night, DriftSettings(correlation_s=600, cycle="day"), marks=pytest.mark.slow),
    ],
)
def test_correlated_images_give_few_alarms(make: Callable[[np.random.Generator], Stream], settings: DriftSettings, tmp_path: Path) -> None:
    weeks = WEEKS if settings.cycle == "day" else 20
    alarms = weeks_with_alarm(tmp_path, make, settings, weeks)
    assert stats.binomtest(alarms, weeks, 0.05, alternative="greater").pvalue > 0.001, f"{alarms} of {weeks}, promised 5 %"
    assert weeks_with_alarm(tmp_path, make, INDEPENDENT, 3) == 3, "the streams would do without"


def test_a_change_is_found_among_correlated_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drift = drift_of(tmp_path, rng.normal(size=1000).tolist(), DriftSettings(correlation_s=1800))
    times, values = correlated(rng)
    changed = len(values) // 2
    values[changed:] += 2
    number = 0
    while not drift.drifted("brightness"):
        drift.add({"brightness": float(values[number])}, at=MONDAY + float(times[number]))
        number += 1
    assert changed < number < changed + 2 * 24 * 60, "within two days"


def test_a_burst_counts_once(tmp_path: Path) -> None:
    """A hundred photos of one dark room within a minute are one observation."""
    rng = np.random.default_rng(0)
    drift = drift_of(tmp_path, rng.normal(size=200).tolist(), DriftSettings())
    for number in range(100):
        drift.add({"brightness": -3.0}, at=MONDAY + 300 + number / 2)
    drift.add({"brightness": 0.0}, at=MONDAY + 900)
    assert drift.images == 101
    assert drift.compared <= 1
    assert not drift.drifted("brightness")


def drawn(times: Any, correlation_s: float, items: list[Any] | None = None, sources: list[str] | None = None) -> list[Any]:
    thinning, found = Thinning[Any](correlation_s), []
    for number, at in enumerate(times):
        found += thinning.advance(at)
        thinning.add(at, sources[number] if sources else "", items[number] if items else at)
    return found


@pytest.mark.parametrize("correlation_s", [0.5, 60, 3600])
@pytest.mark.parametrize("seed", range(3))
def test_drawn_images_of_a_source_are_far_enough_apart(correlation_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = 1e9 + np.cumsum(rng.exponential(correlation_s / 4, 4000))
    sources = rng.choice(["a", "b"], 4000).tolist()
    found = drawn(times.tolist(), correlation_s, list(zip(times.tolist(), sources, strict=True)), sources)
    for source in ("a", "b"):
        apart = np.diff([at for at, of in found if of == source])
        assert apart.min() >= correlation_s
        assert apart.mean() < 8 * correlation_s, "and not much further"


@pytest.mark.parametrize(("correlation_s", "every_s"), [(60, 120), (60, 3600), (1, 60), (1, 3600), (10, 300), (600, 86_400)])
def test_images_that_come_on_the_minute_are_not_missed(correlation_s: float, every_s: float) -> None:
    for offset in (0, every_s / 3):
        found = drawn([1e9 - 1e9 % DAY + offset + every_s * number for number in range(2000)], correlation_s)
        assert len(found) == pytest.approx(0.4 * 2000, rel=0.12)


def test_busy_and_quiet_times_have_their_share() -> None:
    """Every image has the same chance: bursts of fifty are nine tenths of all images, and of those drawn."""
    rng = np.random.default_rng(0)
    times, items, begin = list[float](), list[int](), 0.0
    for _ in range(15_000):
        begin += rng.exponential(200)
        many = int(rng.random() < 0.2)
        count = 50 if many else 1
        times += [begin + number / 10 for number in range(count)]
        items += [many] * count
        begin += count / 10
    found = drawn(times, 60, items)
    assert len(found) > 300
    assert np.mean(found) == pytest.approx(np.mean(items), abs=0.05)


def test_one_flood_of_images_does_not_blind_the_rest_of_the_week() -> None:
    quiet = np.arange(0, WEEK, 10.0)
    with_flood = np.sort(np.concatenate([quiet, 50_000 + np.arange(1200) / 20]))
    assert len(drawn(with_flood.tolist(), 60)) > 0.7 * len(drawn(quiet.tolist(), 60))


def test_the_draw_is_the_same_wherever_a_log_begins() -> None:
    times = [float(number) for number in range(0, 40_000, 7)]
    later = drawn(times[2000:], 60)[1:]
    assert len(set(later) & set(drawn(times, 60))) > 0.9 * len(later), "what is kept depends a little on how busy it was before"


def test_a_day_is_judged_when_it_is_over(tmp_path: Path) -> None:
    drift = drift_of(tmp_path, list(range(100)), DriftSettings(correlation_s=60, cycle="day"))
    for at in range(0, DAY, 60):
        drift.add({"brightness": 500.0}, at=MONDAY + at)
    assert drift.compared == 0
    drift.add({"brightness": 50.0}, at=MONDAY + DAY)
    assert drift.compared > 300
    assert drift.drifted("brightness")


def test_the_last_day_of_a_week_counts_for_its_own_week(tmp_path: Path) -> None:
    drift = drift_of(tmp_path, list(range(100)), DriftSettings(correlation_s=60, cycle="day"))
    for at in range(WEEK - DAY, WEEK, 60):
        drift.add({"brightness": 500.0}, at=MONDAY + at)
    drift.add({"brightness": 50.0}, at=MONDAY + WEEK)
    assert (drift.images, drift.compared) == (1, 0)
    assert not drift.drifted("brightness")


def test_a_busy_week_keeps_its_promise_and_its_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A week of many tests has the false alarms of one, and an alarm stays when the next test begins."""
    monkeypatch.setattr("planish.serving.monitoring.drift._MOST_IMAGES", 50)
    alarms = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        drift = drift_of(tmp_path, rng.normal(size=100).tolist(), DriftSettings(0.2, correlation_s=0))
        for value in rng.normal(size=600).tolist():
            drift.add({"brightness": value}, at=MONDAY)
        alarms += drift.drifted("brightness")
    assert stats.binomtest(alarms, 50, 0.2, alternative="greater").pvalue > 0.001, f"{alarms} of 50, promised 20 %"
    for value in [9.0] * 40 + rng.normal(size=60).tolist():
        drift.add({"brightness": value}, at=MONDAY)
    assert drift.drifted("brightness")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "dark", [1]])
def test_what_is_no_number_is_passed_over(value: object, tmp_path: Path) -> None:
    drift = drift_of(tmp_path, list(range(100)), INDEPENDENT)
    for _ in range(50):
        drift.add({"brightness": value}, at=MONDAY)
    assert drift.compared == 50
    assert not drift.drifted("brightness")
    assert np.isfinite(drift.findings()[0].log10_evidence)


def test_a_class_that_no_longer_comes_is_named(tmp_path: Path) -> None:
    (tmp_path / REFERENCE).write_text(json.dumps({"schema_version": 1, "values": {}, "class_counts": {"cat": 200, "dog": 300, "hen": 500}}))
    drift = Drift(tmp_path, INDEPENDENT)
    for number in range(600):
        drift.add({}, ["cat", "hen", "hen"][number % 3], MONDAY)
    (found,) = drift.findings()
    assert (found.of, found.drifted, found.words) == (CLASSES, True, "dog: 30 % → 0 %")


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"false_alarms": 0.0}, {"correlation_s": -1}, {"correlation_s": WEEK}, {"period": "day", "cycle": "week"}):
        with pytest.raises(GoalError):
            DriftSettings(**wrong)
