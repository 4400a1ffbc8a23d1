"""Images without labels: which folders hold them, how they are split, and which jobs refuse them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.artifact import InputSpec, Preprocessing
from planish.data import Decoding, ImageData, is_unlabelled, load_images, load_unlabelled, require_classes
from planish.errors import DataError
from planish.testing import write_shapes

MODES = ("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16")


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Images of noise, of various sizes and modes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = rng.integers(20, 60, 2)
        mode = MODES[i % len(MODES)]
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
        else:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        image.save(folder / f"{i:03d}.{'jpg' if mode == 'CMYK' else 'png'}")
    return folder


def keys(data: ImageData, *names: str) -> set[str]:
    return {key for name, split in data.splits.items() if name in names for key in split.keys}


def load(source: str | Path, **options: bool) -> ImageData:
    return load_unlabelled(source, Decoding(32), **options)


def test_images_of_any_size_and_mode_are_split_by_content(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 40)
    assert is_unlabelled(folder)
    data = load(folder)
    sizes = [len(keys(data, name)) for name in ("train", "validation", "test")]
    assert sum(sizes) == len(keys(data, "train", "validation", "test")) == 40
    assert all(3 <= size <= 9 for size in sizes[1:]), "15 % of 40 each, and at most half more or less"
    assert keys(data, "calibration") <= keys(data, "train")
    assert (data.class_names, data.channels) == ((), 3)
    pixels = data.splits["test"].images(InputSpec(3, 24, 24), Preprocessing(32, "crop", (0.5,) * 3, (0.5,) * 3))
    assert pixels.shape == (sizes[2], 24, 24, 3)
    for file in folder.iterdir():
        file.rename(tmp_path / f"renamed{file.name}")
    assert keys(load(tmp_path), "test") == {f"renamed{key}" for key in keys(data, "test")}


def test_copies_stay_in_one_split(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 20)
    for file in sorted(folder.iterdir()):
        shutil.copy(file, folder / f"copy-{file.name}")
    data = load(folder)
    for name in ("train", "validation", "test"):
        there = keys(data, name)
        assert {key.removeprefix("copy-") for key in there} == {key for key in there if not key.startswith("copy-")}
        assert there


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("1.png", "2.jpg"), True),
        (("1.png", "README.txt", ".hidden.csv"), True),
        (("1.png", "labels.csv"), False),
        (("1.png", "rows.jsonl"), False),
        (("1.png", "cat/2.png"), False),
        (("1.png", "cat/notes.txt"), True),
    ],
)
def test_which_folders_hold_images_without_labels(tmp_path: Path, files: tuple[str, ...], expected: bool) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    if expected or "cat/2.png" in files:
        assert is_unlabelled(tmp_path) == expected
    else:
        with pytest.raises(DataError, match="--unlabelled"):
            is_unlabelled(tmp_path)
    assert is_unlabelled(f"unlabelled:{tmp_path}")


def test_class_folders_can_be_read_without_their_labels(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "shapes", per_class=8, channels=3)
    assert not is_unlabelled(folder)
    data = load(f"unlabelled:{folder}")
    assert len(keys(data, "train", "validation", "test")) == 24
    assert data.class_names == ()


def test_given_splits_are_kept(tmp_path: Path) -> None:
    for seed, (name, count) in enumerate((("train", 12), ("val", 4), ("test", 5))):
        write_images(tmp_path / name / "deep", count, seed)
    data = load(f"unlabelled:{tmp_path}")
    assert {name: {key.partition("/")[0] for key in keys(data, name)} for name in ("train", "validation", "test")} == {
        "train": {"train"}, "validation": {"val"}, "test": {"test"},
    }  # fmt: skip


def test_few_images(tmp_path: Path) -> None:
    for count in (1, 2):
        with pytest.raises(DataError, match=rf"{count} image.*at least 3.*only speed and size"):
            load(write_images(tmp_path, count))
    assert [len(keys(load(write_images(tmp_path, 3)), name)) for name in ("train", "validation", "test")] == [1, 1, 1]
    with pytest.raises(DataError, match="has no images"):
        load(f"unlabelled:{(tmp_path / 'empty').mkdir() or tmp_path / 'empty'}")
    with pytest.raises(DataError, match="those are a folder"):
        load(f"unlabelled:{tmp_path / '000.png'}")


def test_broken_images_stop_or_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        load(tmp_path)
    assert len(keys(load(tmp_path, skip_bad=True), "train", "validation", "test")) == 10


@pytest.mark.parametrize("prefix", ["", "unlabelled:"])
def test_jobs_that_need_labels_refuse_them(tmp_path: Path, prefix: str) -> None:
    source = f"{prefix}{write_images(tmp_path, 4)}"
    for job in (load_images, lambda source: require_classes(source, "a temperature")):
        with pytest.raises(DataError, match=r"4 images without labels.*manifest.*--max-change"):
            job(source)
    with pytest.raises(DataError, match="4 images without labels"):
        load_images(source, class_names=("a", "b"))
