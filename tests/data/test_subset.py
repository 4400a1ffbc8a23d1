"""Folds: every image once, classes in their shares, near duplicates together; joined splits and subsets give the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.artifact import InputSpec, Preprocessing
from planish.data import load_images
from planish.data.splits import folds
from planish.data.subset import Subset
from planish.errors import DataError
from planish.testing import write_shapes

NAMES = ["a", "b", "c"]


@given(count=st.integers(2, 7), sizes=st.lists(st.integers(7, 40), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_folds_are_equal_in_size_and_in_classes(count: int, sizes: list[int], seed: int) -> None:
    targets = np.repeat(np.arange(3), sizes)
    found = folds(targets, np.arange(len(targets)), count, seed, NAMES)
    table = np.zeros((count, 3), dtype=int)
    np.add.at(table, (found, targets), 1)
    assert np.ptp(table, axis=0).max() <= 1
    assert np.ptp(table.sum(axis=1)) <= 1
    assert (found == folds(targets, np.arange(len(targets)), count, seed, NAMES)).all()


def test_another_seed_gives_other_folds_and_near_duplicates_stay_together() -> None:
    rng = np.random.default_rng(0)
    targets, groups = rng.integers(0, 3, 200), rng.integers(0, 120, 200)
    first, second = (folds(targets, groups, 5, seed, NAMES) for seed in (0, 1))
    assert (first != second).mean() > 0.5
    for found in (first, second):
        assert all(len(set(found[groups == g])) == 1 for g in np.unique(groups))
        assert np.bincount(found).max() - np.bincount(found).min() <= 6


@pytest.mark.parametrize(("groups", "fix"), [([0, 1, 2, 3, 4, 5, 6, 7], "take 3 folds"), ([0, 1, 2, 3, 4, 5, 5, 5], "add images")])
def test_a_class_with_too_few_different_images_is_told(groups: list[int], fix: str) -> None:
    with pytest.raises(DataError, match=f"class 'b' has 3 images.*{fix}"):
        folds(np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array(groups), 4, 0, ["a", "b"])


def test_joined_splits_and_subsets_are_the_same_images(tmp_path: Path) -> None:
    data = load_images(write_shapes(tmp_path / "shapes", per_class=10), cache_dir=tmp_path / "cache")
    train, validation = data.splits["train"], data.splits["validation"]
    pool = train.joined(validation)
    spec, preprocessing = InputSpec(1, 12, 12), Preprocessing(256, "squash", (0.5,), (0.5,))
    both = np.concatenate([train.images(spec, preprocessing), validation.images(spec, preprocessing)])
    assert (pool.images(spec, preprocessing) == both).all()
    assert len(pool) == len(both) == len(pool.groups)
    rows = np.array([len(train) + 1, 0, 3])
    some = Subset(pool, rows)
    assert (some.images(spec, preprocessing) == both[rows]).all()
    assert some.keys == (validation.keys[1], train.keys[0], train.keys[3])
    assert some.targets.tolist() == [validation.targets[1], train.targets[0], train.targets[3]]
    assert some.file_bytes(0) == validation.file_bytes(1)
