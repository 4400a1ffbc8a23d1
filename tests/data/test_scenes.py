"""``fashion-scenes``: composed scenes, against pycocotools and against fashion-mini itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from planish.data.sources import scenes
from planish.data.sources.builtin import builtin_folder, is_builtin
from planish.data.sources.fashion import fashion_mini
from planish.errors import DataError
from planish.progress import Progress, listening


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin_folder("fashion-scenes-30", tmp_path_factory.mktemp("cache"))


def test_names() -> None:
    assert is_builtin("fashion-scenes")
    assert is_builtin("fashion-scenes-1000")
    assert not is_builtin("fashion-scenes-0")
    assert not is_builtin("fashion-scenes-x")


@pytest.mark.parametrize(("split", "count"), [("train", 30), ("validation", 30), ("test", 60)])
def test_the_reference_reader_reads_it(folder: Path, split: str, count: int) -> None:
    coco = COCO(folder / split / "_annotations.coco.json")
    assert len(coco.imgs) == count
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == fashion_mini().classes
    for number, image in coco.imgs.items():
        pixels = np.asarray(Image.open(folder / split / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3) == (128, 128, 3)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert 1 <= len(annotations) <= 6
        masks = np.stack([coco.annToMask(a) for a in annotations])
        assert masks.sum(0).max() == 1  # a pixel is of one garment
        for mask, annotation in zip(masks, annotations, strict=True):
            ys, xs = mask.nonzero()
            box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum() > 20
            assert max(box[2:]) <= 90  # the longest diagonal


def test_files_are_the_scenes_in_memory_and_the_same_every_time(folder: Path) -> None:
    for i, scene in enumerate(scenes.compose("train", 3)):
        assert np.array_equal(np.asarray(Image.open(folder / "train" / f"{i:05d}.png")), scene.pixels)
    assert not np.array_equal(scenes.compose("train", 1, seed=1)[0].pixels, scenes.compose("train", 1)[0].pixels)
    assert not np.array_equal(scenes.compose("test", 1)[0].pixels, scenes.compose("train", 1)[0].pixels)


def test_garments_of_one_split_are_in_no_other() -> None:
    mini = fashion_mini()
    kept = {split: scenes._garments(mini, split).grey[:, 3:-3, 3:-3] for split in ("train", "validation", "test")}
    images = {split: {image.tobytes() for image in grey} for split, grey in kept.items()}
    assert images["test"] == {image.tobytes() for image in mini.images("test")}
    assert images["train"] | images["validation"] == {image.tobytes() for image in mini.images("train")}
    assert len(images["train"] & images["validation"]) == 0
    assert len(np.unique(scenes._garments(mini, "validation").labels)) == 10


def test_a_mask_is_where_the_garment_was_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Painted in pure red on a canvas without red, without noise: what is red is in a mask, and the other way round."""
    monkeypatch.setattr(scenes, "_canvas", lambda garments, rng: Image.new("RGB", (128, 128), (0, 0, 255)))
    monkeypatch.setattr(scenes, "_tinted", lambda grey, dark, light: Image.new("RGB", grey.shape[::-1], (255, 0, 0)))
    for scene in scenes.compose("train", 20):
        red = scene.pixels[..., 0].astype(float) / np.maximum(1, scene.pixels[..., 0].astype(float) + scene.pixels[..., 2])
        masks = scene.masks.any(0)
        assert (red[masks] > 0.35).all()
        assert (red[~masks] > 0.65).mean() < 1e-3  # two soft edges, one over the other


def test_progress_is_told_and_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    told: list[Progress] = []
    with listening(told.append):
        scenes.scenes_folder(tmp_path, 2)
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("composing scenes", 8, 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="PLANISH_CACHE"):
        scenes.scenes_folder(tmp_path / "file", 2)


def test_all_classes_and_sizes_turn_up(folder: Path) -> None:
    found = json.loads((folder / "test" / "_annotations.coco.json").read_text())["annotations"]
    assert {a["category_id"] for a in found} == set(range(1, 11))
    longer = [max(a["bbox"][2:]) for a in found]
    assert min(longer) < 22
    assert max(longer) > 55
