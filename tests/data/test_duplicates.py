import hashlib

import numpy as np
import pytest
from PIL import Image

from planish.data import duplicates
from planish.data.duplicates import near_duplicate_groups, thumbnail
from planish.data.splits import cut
from planish.errors import DataError


def described(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([thumbnail(i) for i in images]), np.stack([np.broadcast_to(i.mean((0, 1)) / 255, 3) for i in images])


def smooth(seed: int, side: int = 64) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_the_fast_search_finds_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    base = [smooth(i % 60).astype(float) for i in range(240)]
    images = [np.clip(b + rng.normal(0, 1, b.shape) * rng.uniform(0, 30) + rng.uniform(-20, 20), 0, 255).astype(np.uint8) for b in base]
    thumbs, means = described(images)
    flat = thumbs.reshape(len(thumbs), -1).astype(float)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(flat.std(1, keepdims=True), 4)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(2) + ((means[:, None] - means[None]) ** 2).sum(2))
    alike = distance <= duplicates.THRESHOLD
    while True:  # transitive closure
        wider = (alike.astype(int) @ alike.astype(int)) > 0
        if (wider == alike).all():
            break
        alike = wider
    groups = near_duplicate_groups(thumbs, means)
    assert ((groups[:, None] == groups[None]) == alike).all()
    assert 60 <= len(set(groups.tolist())) < 240


def test_flat_images_are_told_apart_by_colour() -> None:
    images = [np.full((20, 20, 3), colour, dtype=np.uint8) for colour in ((200, 0, 0), (0, 0, 200), (200, 0, 0), (201, 0, 0))]
    groups = near_duplicate_groups(*described(images))
    assert groups[0] == groups[2] == groups[3] != groups[1]


def test_thousands_of_frames_of_one_camera_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 1000)
    rng = np.random.default_rng(1)
    frames = [np.clip(smooth(3) + rng.normal(0, 4, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(300)]
    groups = near_duplicate_groups(*described([*frames, smooth(4)]))
    assert len(set(groups[:-1].tolist())) == 1
    assert groups[-1] != groups[0]


def test_nothing_is_alike_in_no_images() -> None:
    assert len(near_duplicate_groups(np.zeros((0, 16, 16), np.uint8), np.zeros((0, 3)))) == 0


def some_hashes(count: int) -> np.ndarray:
    return np.frombuffer(b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(count)), np.uint8).reshape(-1, 32)


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_keeps_groups_whole_and_shares_near(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 4, 400)
    groups = np.where(rng.random(400) < 0.5, rng.integers(0, 60, 400), 1000 + np.arange(400))
    parts = cut(targets, some_hashes(400), groups, {"train": 1.0, "validation": 0.15, "test": 0.15}, seed, ["a", "b", "c", "d"])
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(400))
    side = np.empty(400, dtype=int)
    for i, rows in enumerate(parts.values()):
        side[rows] = i
    assert all(len(set(side[groups == g].tolist())) == 1 for g in set(groups.tolist()))
    for c in range(4):
        shares = [np.mean(side[targets == c] == i) for i in range(3)]
        assert all(0.15 / 2 <= share <= 0.15 * 1.5 for share in shares[1:])


def test_one_group_a_class_cannot_be_cut() -> None:
    with pytest.raises(DataError, match="near duplicates of each other"):
        cut(np.array([0, 0, 0, 1, 1, 1]), some_hashes(6), np.array([0, 0, 0, 1, 2, 3]), {"train": 1.0, "test": 0.3}, 0, ["a", "b"])
