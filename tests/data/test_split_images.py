"""Images keep the split that a model has them in, by content, whatever their files are called and wherever they lie now."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.data import load_images, tile_images
from planish.data.images import ImageData
from planish.errors import DataError
from planish.progress import listening


def png(seed: int, smooth: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3) if smooth else (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.resize((48, 48), Image.Resampling.BICUBIC) if smooth else image).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, count: int, first: int = 0, smooth: bool = False) -> Path:
    for i in range(first, first + count):
        for name, offset in (("a", 0), ("b", 10_000)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{i:04d}.png").write_bytes(png(offset + i, smooth))
    return folder


def split_of(data: ImageData) -> dict[str, str]:
    return {key: name for name, split in data.splits.items() if name != "calibration" for key in split.keys}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "images", 60)


def test_an_image_more_or_less_moves_no_other_even_the_first_time(folder: Path) -> None:
    before = split_of(load_images(folder))
    write(folder, 3, first=100)
    after = split_of(load_images(folder))
    assert {key: after[key] for key in before} == before
    for gone in ("a/0007.png", "b/0011.png"):
        (folder / gone).unlink()
    fewer = split_of(load_images(folder))
    assert fewer == {key: after[key] for key in fewer}


def test_what_a_model_keeps_holds_for_other_names_and_another_seed(folder: Path) -> None:
    first = load_images(folder, seed=3)
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")
    write(folder / "more", 5, first=300)
    for name in "ab":
        for file in (folder / "more" / name).iterdir():
            shutil.copy(file, folder / name)
    shutil.rmtree(folder / "more")
    again = load_images(folder, assignment=first.assignment)
    of_new = {key: split for key, split in split_of(again).items() if "/03" in key}
    of_old = {key: split for key, split in split_of(again).items() if "/03" not in key}
    assert of_old == {{"a": "b", "b": "a"}[key[0]] + key[1:]: split for key, split in split_of(first).items()}
    assert len(of_new) == 10
    assert again.known == 120
    assert again.assignment.seed == 3
    assert again.assignment.updated(first.assignment) == again.assignment
    assert len(again.assignment.splits) == 130
    few = load_images(folder, seed=8, assignment=again.assignment)
    assert split_of(few) == split_of(again)


def test_new_images_are_assigned_alike_whoever_comes_with_them(folder: Path, tmp_path: Path) -> None:
    first = load_images(folder)
    alone = split_of(load_images(write(folder, 4, first=500), assignment=first.assignment))
    many = split_of(load_images(write(folder, 30, first=600), assignment=first.assignment))
    assert {key: many[key] for key in alone} == alone
    assert {"train", "validation", "test"} == {split for key, split in many.items() if "/06" in key}


def test_copies_that_look_like_known_images_follow_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "images", 40, smooth=True)
    first = split_of(data := load_images(folder))
    for key in first:
        Image.open(folder / key).resize((40, 40)).save(folder / key.replace(".png", "-small.jpg"), quality=80)
    again = split_of(load_images(folder, seed=1, assignment=data.assignment))
    assert all(again[key.replace(".png", "-small.jpg")] == split for key, split in first.items())


def test_a_part_of_the_images_is_enough(folder: Path) -> None:
    first = load_images(folder)
    for key, split in split_of(first).items():
        if split != "test":
            (folder / key).unlink()
    only = load_images(folder, assignment=first.assignment)
    assert {key for key, split in split_of(only).items() if split == "test"} == set(first.splits["test"].keys)
    assert len(only.splits["train"]) == len(only.splits["validation"]) == len(only.splits["calibration"]) == 0
    only.require("test")
    with pytest.raises(DataError, match=r"no image of 'images' is in train \(train 0, validation 0, test \d+\)"):
        only.require("test", "train")


def test_folders_that_contradict_are_told_with_counts_and_do_not_win(folder: Path, tmp_path: Path) -> None:
    first = load_images(folder)
    given = tmp_path / "given"
    for key, split in split_of(first).items():
        target = given / {"train": "train", "validation": "train", "test": "test"}[split] / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / key, target)
    told: list[str] = []
    with listening(lambda p: told.append(p.text)):
        same = load_images(given, assignment=first.assignment)
    assert {key.split("/", 1)[1]: split for key, split in split_of(same).items()} == split_of(first)
    assert not any("stay there" in text for text in told), "validation that was cut from a given train is in its place"
    moved = [key for key in first.splits["train"].keys if key.startswith("a/")][:4]
    for key in moved:
        (given / "train" / key).rename(given / "test" / key)
    with listening(lambda p: told.append(p.text)):
        again = load_images(given, assignment=first.assignment)
    (text,) = {text for text in told if "stay there" in text}
    assert text.startswith("4 images that are in test now are in train of the model")
    assert not set(again.splits["test"].keys) & {f"test/{key}" for key in moved}
    assert len(again.splits["test"]) == len(first.splits["test"])


def test_of_images_that_no_model_knows_all_can_be_tested(folder: Path, tmp_path: Path) -> None:
    first = load_images(folder)
    other = load_images(write(tmp_path / "other", 2, first=900), assignment=first.assignment)
    assert other.known == 0
    assert len(other.all_in_test().splits["test"]) == 4
    many = load_images(write(tmp_path / "many", 40, first=2000), assignment=first.assignment)
    held = many.all_in_test(but="validation")
    assert len(held.splits["test"]) + len(held.splits["validation"]) == 80
    assert not set(held.splits["test"].keys) & set(held.splits["validation"].keys)


def test_of_images_that_are_all_in_validation_none_is_left_to_test(folder: Path, tmp_path: Path) -> None:
    first = load_images(folder)
    for i in range(900, 1000):
        other = load_images(write(tmp_path / f"{i}", 1, first=i), assignment=first.assignment)
        if len(other.splits["validation"]) == 2:
            break
    held = other.all_in_test(but="validation")
    assert (len(held.splits["validation"]), len(held.splits["test"])) == (2, 0)
    with pytest.raises(DataError, match="is in test"):
        held.require("test")


@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_every_task_keeps_its_splits(task: str, tmp_path: Path) -> None:
    photos = scenes(tmp_path / "photos", 30)
    first = load_images(photos, task=task, seed=5)
    assert split_of(load_images(photos, task=task)) != split_of(first)
    again = load_images(photos, task=task, assignment=first.assignment)
    assert split_of(again) == split_of(first)
    assert again.known == len(split_of(first))


def scenes(folder: Path, count: int) -> Path:
    """Large images with a box each, as a COCO file."""
    folder.mkdir()
    images, boxes = [], []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 99, (80, 100), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 80, "width": 100})
        boxes.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1 + i % 2,
                "bbox": [10, 10, 70, 50],
                "area": 3500,
                "iscrowd": 0,
                "segmentation": [[10, 10, 80, 10, 80, 60, 10, 60]],
            }
        )
    names = [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]
    (folder / "all.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": names}))
    return folder


def test_a_model_of_tiles_knows_the_images_that_they_were_cut_from(tmp_path: Path) -> None:
    photos = scenes(tmp_path / "photos", 24)
    tile_images(photos, tmp_path / "tiles", size=64)
    tiles = load_images(tmp_path / "tiles")
    behind: dict[str, set[str]] = {}
    for key, split in split_of(tiles).items():
        behind.setdefault(key.split("/")[1].split("-")[1] + ".png", set()).add(split)
    whole = load_images(photos, seed=9, assignment=tiles.assignment)
    assert {key: {split} for key, split in split_of(whole).items()} == behind
    told: list[str] = []
    other = load_images(photos, seed=9).assignment
    with listening(lambda p: told.append(p.text)):
        load_images(tmp_path / "tiles", assignment=other)
    assert any("of the 24 images that these tiles were cut from are in another split of the model" in text for text in told)


def test_images_cut_into_bands_were_trained_on(tmp_path: Path) -> None:
    photos = scenes(tmp_path / "photos", 4)
    tile_images(photos, tmp_path / "tiles", size=32)
    tiles = load_images(tmp_path / "tiles")
    assert all(len(tiles.splits[name]) for name in ("train", "validation", "test"))
    with pytest.raises(DataError, match="no image of 'photos' is in test"):
        load_images(photos, assignment=tiles.assignment).require("test")
