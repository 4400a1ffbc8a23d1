"""A limited image cache: old entries make room for new ones, and what does not fit is decoded whenever it is needed, to the same pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.artifact import InputSpec, Preprocessing
from planish.commands import train
from planish.data.cache.images import ImagesOnDemand
from planish.data.cache.limit import cache_limit
from planish.data.images import ImageData, load_images
from planish.data.preprocessing import preprocess
from planish.errors import DataError
from planish.files.workspace import CACHE_SIZE
from planish.progress import listening
from planish.testing import write_shapes

_HOW = Preprocessing(64, "crop", (0.5,), (0.5,))
Load = Callable[[Path], ImageData]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Colour and grey images of several sizes and formats, some larger than what they are shrunk to."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            shape = (int(rng.integers(20, 400)), int(rng.integers(20, 400)), *([3] if number % 4 else []))
            kind = ("png", "jpg", "webp")[number % 3]
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "photos" / label / f"{number}.{kind}")
    return tmp_path / "photos"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return lambda source: load_images(source, cache_dir=tmp_path / "cache")


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_do_not_fit_have_the_pixels_of_the_files(
    photos: Path, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setenv(CACHE_SIZE, "10kB")
    told: list[str] = []
    with listening(lambda progress: told.append(progress.text)):
        data = load(photos)
    assert any("0.00 GB" in text and "--cache-size" in text for text in told)
    spec, split = InputSpec(channels, 48, 40), data.splits["train"]
    images = split.images(spec, _HOW)
    assert isinstance(images, ImagesOnDemand)
    assert (len(images), images.shape) == (len(split), (len(split), 48, 40, channels))
    expected = np.stack([preprocess(split.file_bytes(i), spec, _HOW) for i in range(len(split))])
    np.testing.assert_array_equal(images[:], expected)
    np.testing.assert_array_equal(np.asarray(images), expected)
    np.testing.assert_array_equal(images[2], expected[2])
    np.testing.assert_array_equal(images[-3::2], expected[-3::2])
    np.testing.assert_array_equal(images[np.array([5, 1, 1])], expected[[5, 1, 1]])
    mask = np.arange(len(split)) % 3 == 0
    np.testing.assert_array_equal(images[mask], expected[mask])
    assert images[4:4].shape == (0, 48, 40, channels)
    with pytest.raises(IndexError):
        images[len(split)]
    assert bytes_in(tmp_path / "cache" / "decoded") < 60_000  # sizes, means and thumbnails alone
    assert not list((tmp_path / "cache").glob("resized/*"))


def test_statistics_and_splits_do_not_depend_on_the_limit(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    found = []
    for limit in ("1GB", "0"):
        monkeypatch.setenv(CACHE_SIZE, limit)
        found.append(load_images(photos, skip_bad=True, cache_dir=tmp_path / limit))
    large, none = found
    assert (large.mean, large.std, large.typical_height, large.channels) == (none.mean, none.std, none.typical_height, none.channels)
    assert {name: split.keys for name, split in large.splits.items()} == {name: split.keys for name, split in none.splits.items()}
    assert [bad.key for bad in none.report.bad] == ["cat/broken.png"]


def test_what_was_used_least_recently_makes_room(photos: Path, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_SIZE, "1GB")
    split = load(photos).splits["train"]
    sizes = {side: InputSpec(3, side, side) for side in (40, 48, 56)}
    for number, side in enumerate((40, 48)):
        split.images(sizes[side], _HOW)
        newest = max((tmp_path / "cache" / "resized").iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
        os.utime(newest, (1e9 + number, 1e9 + number))
    split.images(sizes[40], _HOW)  # used again, so 48 is the oldest now
    total = bytes_in(tmp_path / "cache" / "decoded") + bytes_in(tmp_path / "cache" / "resized")
    monkeypatch.setenv(CACHE_SIZE, str(total + len(split) * 3 * (56**2 - 48**2) + 200))
    images = split.images(sizes[56], _HOW)
    assert not isinstance(images, ImagesOnDemand)
    left = {np.load(entry / "images.npy", mmap_mode="r").shape[1] for entry in (tmp_path / "cache" / "resized").iterdir()}
    assert left == {40, 56}


def test_decoded_images_are_not_deleted_for_those_made_from_them(photos: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_SIZE, "5MB")
    split = load(photos).splits["train"]
    assert split._store.buffer is not None
    images = split.images(InputSpec(3, 640, 640), _HOW)
    assert isinstance(images, ImagesOnDemand)
    np.testing.assert_array_equal(images[7], preprocess(split.file_bytes(7), InputSpec(3, 640, 640), _HOW))


def test_a_file_that_changes_meanwhile_is_not_taken_for_the_old_one(photos: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_SIZE, "0")
    split = load(photos).splits["train"]
    images = split.images(InputSpec(3, 32, 32), _HOW)
    split.paths[3].write_bytes(split.paths[4].read_bytes())
    with pytest.raises(DataError, match="has changed since it was listed"):
        images[2:5]
    split.paths[3].unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        images[3]


def test_a_training_is_the_same_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=30)
    accuracies = []
    for limit in ("1GB", "0"):
        monkeypatch.setenv(CACHE_SIZE, limit)
        monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / f"cache-{limit}"))
        train(data, model="resnet8x0.5", epochs=2, changes=["mixed_precision=off"], out=tmp_path / f"run-{limit}")
        accuracies.append((tmp_path / f"run-{limit}" / "model.safetensors").read_bytes())
    assert accuracies[0] == accuracies[1]


def test_the_limit_is_half_of_what_the_disk_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_SIZE, raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    (tmp_path / "decoded" / "x").mkdir(parents=True)
    (tmp_path / "decoded" / "x" / "pixels.bin").write_bytes(bytes(500))
    assert cache_limit(tmp_path) == 750
    for text, expected in {"20GB": 20e9, "0": 0, "5 MiB": 5 * 2**20}.items():
        monkeypatch.setenv(CACHE_SIZE, text)
        assert cache_limit(tmp_path) == expected
    monkeypatch.setenv(CACHE_SIZE, "lots")
    with pytest.raises(DataError, match=r"'lots' is not a size.*20GB"):
        cache_limit(tmp_path)
