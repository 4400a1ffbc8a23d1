"""Kinds of error in label maps: by hand, and against the metric of maps that are repaired pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.evaluation.errors.segmentation import KINDS, kinds_of, segmentation_errors
from planish.evaluation.metrics.segmentation import IGNORED, segmentation_metrics

NAMES = ("background", "cat", "dog")


def test_each_pixel_is_of_the_kind_that_it_looks_like() -> None:
    wanted = np.zeros((9, 12), np.uint8)
    wanted[2:7, 1:6] = 1  # its inside is 3:6, 2:5
    wanted[0, 11] = IGNORED
    said = wanted.copy()
    said[4, 2], said[4, 3], said[2, 1], said[4, 9], said[0, 11], said[7, 3] = 2, 0, 0, 2, 1, 1
    kinds = kinds_of(said, wanted, background=0)
    by_hand = {(4, 2): "mistaken_classes", (4, 3): "missed_pixels", (2, 1): "borders", (7, 3): "borders", (4, 9): "invented_pixels"}
    assert {(int(y), int(x)): KINDS[kinds[y, x]] for y, x in np.argwhere(kinds >= 0)} == by_hand
    assert {KINDS[k] for k in kinds_of(said, wanted, background=None).ravel() if k >= 0} == {"borders", "mistaken_classes"}


def test_the_border_of_a_large_map_is_wider() -> None:
    wanted, said = np.zeros((2, 300, 400), np.uint8)
    wanted[:, 200:], said[:, 195:] = 1, 1
    assert (kinds_of(said, wanted, 0) == KINDS.index("borders")).sum() == 300 * 4
    assert (kinds_of(said, wanted, 0) == KINDS.index("invented_pixels")).sum() == 300


@pytest.mark.parametrize("names", [NAMES, ("sky", "cat", "dog")])
def test_a_cost_is_what_the_metric_of_repaired_maps_would_win(names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    wanted = np.kron(rng.integers(0, 3, (12, 4, 4), np.uint8), np.ones((6, 6), np.uint8))
    wanted[:, 0, :3] = IGNORED
    said = np.where((rng.random(wanted.shape) < 0.3) | (wanted == IGNORED), rng.integers(0, 3, wanted.shape, np.uint8), wanted)
    found = segmentation_errors({"classes": said}, wanted, names)
    assert set(found) == (set(KINDS) if names == NAMES else {"borders", "mistaken_classes"})
    before = segmentation_metrics({"classes": said}, wanted, names)["miou"].value
    kinds: Any = np.stack([kinds_of(s, w, 0 if names == NAMES else None) for s, w in zip(said, wanted, strict=True)])
    for kind, measured in found.items():
        wrong = kinds == KINDS.index(kind)
        repaired = segmentation_metrics({"classes": np.where(wrong, wanted, said)}, wanted, names)["miou"].value
        assert measured.value == pytest.approx(repaired - before, abs=1e-9)
        assert measured.n == wrong.sum() > 0
        assert measured.low < measured.value < measured.high
    assert sum(m.n for m in found.values()) == ((said != wanted) & (wanted != IGNORED)).sum()


def test_against_itself_nothing_is_lost_and_against_a_perfect_map_everything() -> None:
    rng = np.random.default_rng(1)
    wanted = np.kron(rng.integers(0, 3, (8, 3, 3), np.uint8), np.ones((5, 5), np.uint8))
    said = np.where(rng.random(wanted.shape) < 0.3, np.uint8(0), wanted)
    outputs, perfect = {"classes": said}, {"classes": wanted}
    for measured in segmentation_errors(outputs, wanted, NAMES, against=outputs).values():
        assert (measured.value, measured.low, measured.high, measured.n) == (0, 0, 0, 8)
    alone, paired = segmentation_errors(outputs, wanted, NAMES), segmentation_errors(outputs, wanted, NAMES, against=perfect)
    assert {kind: m.value for kind, m in alone.items()} == pytest.approx({kind: m.value for kind, m in paired.items()})
    assert alone["missed_pixels"].value > 0 == alone["invented_pixels"].value
