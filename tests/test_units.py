from __future__ import annotations

import pytest

from planish.errors import GoalError
from planish.units import has_both_sides, image_sides, milliseconds, seconds, size_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [("5ms", 5), ("0.8 ms", 0.8), ("800us", 0.8), ("0.1s", 100), ("800µs", 0.8), ("800\u03bcs", 0.8), (3.5, 3.5), ("7", 7)],
)
def test_latency(text: str | float, value: float) -> None:
    assert milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("4MB", 4_000_000), ("512KiB", 524_288), (1000, 1000), ("1.5 kB", 1500)])
def test_size(text: str | float, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20m", 1200),
        ("90s", 90),
        ("1h30m", 5400),
        ("7m30s", 450),
        ("1.5h", 5400),
        (60, 60),
        ("1h0m", 3600),
        ("0h 30m", 1800),
        ("1h 30m", 5400),
    ],
)
def test_time(text: str | float, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["fast", "-5ms", "0ms", "5 parsecs", "", "nan", "1e999ms"])
def test_what_is_not_a_latency_says_how_to_write_one(text: str) -> None:
    with pytest.raises(GoalError, match="for example 5ms"):
        milliseconds(text)


@pytest.mark.parametrize("text", ["0h0m", "1h30", "1.2.3h4m", "h m"])
def test_what_is_not_a_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(GoalError, match="for example 20m"):
        seconds(text)


@pytest.mark.parametrize(("size", "sides"), [(224, (224, 224)), ("64", (64, 64)), ("48x192", (48, 192)), (" 8 X 2048 ", (8, 2048))])
def test_image_sizes(size: int | str, sides: tuple[int, int]) -> None:
    assert image_sides(size) == sides
    assert has_both_sides(size) == (sides[0] != sides[1])
    assert not has_both_sides(None)


@pytest.mark.parametrize("size", [7, 2049, 0, -32, "48x", "x192", "48x192x3", "4x100", "100x4000", "1e2", "48*192", ""])
def test_what_is_no_image_size_says_how_to_write_one(size: int | str) -> None:
    with pytest.raises(GoalError, match=r"HEIGHTxWIDTH.*224 or 48x192"):
        image_sides(size)
