"""Scales, ticks, the frontier's line, words for numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.measurement import Measurement
from planish.report import formatting as words
from planish.report.plots import run as plots
from planish.report.plots.svg import Scale, el, log_ticks, ticks
from planish.report.plots.thumbnails import data_uri

positive = st.floats(1e-4, 1e6)


@given(positive, st.floats(1.01, 1e4))
def test_ticks_lie_inside_and_are_few(low: float, factor: float) -> None:
    high = low * factor
    for found in (ticks(low, high), log_ticks(low, high)):
        assert 1 <= len(found) <= 10
        assert all(low * (1 - 1e-6) <= t <= high * (1 + 1e-6) for t in found)
        assert found == sorted(found)


def test_scales() -> None:
    log = Scale(1, 100, 0, 200, log=True)
    assert [log(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert Scale(0, 2, 100, 0)(0.5) == 75


def test_pareto_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = [tuple(p) for p in rng.integers(0, 12, (40, 2)).astype(float)]
    kept = plots.pareto(points)
    better = lambda a, b: a[0] <= b[0] and a[1] >= b[1] and a != b  # noqa: E731
    assert set(kept) == {p for p in points if not any(better(q, p) for q in points)}


def test_elements_are_escaped() -> None:
    assert el("text", "<b>&", cls='a"b', x=1.0) == '<text class="a&#34;b" x="1">&lt;b&gt;&amp;</text>'
    assert el("g", el("line", x1=0.5)) == '<g><line x1="0.5"></line></g>'


def test_thumbnails_are_png_when_small_and_jpeg_when_large() -> None:
    assert data_uri(np.zeros((28, 28, 1), np.uint8)).startswith("data:image/png")
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    assert data_uri(noise).startswith("data:image/jpeg")
    assert len(data_uri(noise)) < 20_000


@pytest.mark.parametrize(
    ("value", "low", "high", "word"), [(0.4, -0.1, 0.9, "no difference"), (1.4, 0.5, 2.3, "lost"), (-1.4, -2.0, -0.5, "gained")]
)
def test_a_difference_inside_the_noise_is_none(value: float, low: float, high: float, word: str) -> None:
    drop = Measurement("drop", value, "points", 100, False, low, high)
    assert words.change_word(drop) == word
    shown = words.change_interval(drop).replace("−", "-").split(" to ")
    assert [float(x) for x in shown] == pytest.approx([-high, -low])
    assert float(words.change(drop).replace("−", "-")) == pytest.approx(-value)


def test_numbers_in_words() -> None:
    assert [words.size(b) for b in (12, 1500, 121_000, 1_114_000)] == ["12 bytes", "1.50 kB", "121 kB", "1.11 MB"]
    assert [words.milliseconds(v) for v in (0.62, 3.294, 12.34, 123.4)] == ["0.620", "3.29", "12.3", "123"]
    assert words.number(-0.001, 2, sign=True) == "0.00"
    assert words.number(-1.5, 1) == "−1.5"
    assert words.seconds(59.9) == "59.9 s"
    assert words.seconds(171) == "2 min 51 s"
    assert words.seconds(7260) == "2 h 01 min"
    assert words.interval(Measurement("latency_ms", 1, "ms", 1, False, 0.9, 1.1)) == "0.900 to 1.10 ms"
    assert words.interval(Measurement("latency_ratio", 4, "ratio", 1, True, 3.9, 4.1)) == "3.90× to 4.10×"


def test_training_curve_survives_nan_and_one_value() -> None:
    from planish.report.recomputation.run_folder import EpochRow

    history = [EpochRow(epoch=e, train_loss=math.nan if e == 2 else 1.0, validation_score=50) for e in (1, 2, 3)]
    curves = plots.training(history, "miou")
    assert [title for title, _ in curves] == ["mIoU on validation, %", "Loss on train"]
    assert all("nan" not in curve for _, curve in curves)
