"""COCO files that hold what the format does not allow, or what readers often take for something else."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import HEIGHT, IMAGES, WIDTH, loaded, objects, picture

from planish.data.annotations.validation import encode_mask
from planish.data.images import load_images
from planish.errors import DataError

POLYGON = [2, 3, 10, 3, 10, 12, 2, 12]


def coco(root: Path, edit: Callable[[dict[str, Any]], object], masks: bool = False, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Two objects an image, red and blue, after ``edit``."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]}
    for i in range(IMAGES):
        picture(i, root / f"{i:02d}.png", size)
        content["images"].append({"id": i, "file_name": f"{i:02d}.png", "height": HEIGHT, "width": WIDTH})
        for k in range(2):
            one = {"id": 2 * i + k, "image_id": i, "category_id": 1 + k, "bbox": [2 + 10 * k, 3, 8, 9], "area": 72, "iscrowd": 0}
            if masks:
                one["segmentation"] = [[value + 10 * k * (place % 2 == 0) for place, value in enumerate(POLYGON)]]
            content["annotations"].append(one)
    edit(content)
    (root / "a.json").write_text(json.dumps(content))
    return root


def change(where: str, number: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    """Set fields of one image, annotation or category; a field of None is taken away."""

    def edit(content: dict[str, Any]) -> None:
        for name, value in fields.items():
            if value is None:
                del content[where][number][name]
            else:
                content[where][number][name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("annotations", 3, bbox=None), "annotation 3 in a.json has the bbox None"),
        (change("annotations", 3, bbox=[1, 2, 3]), r"has the bbox \[1, 2, 3\]; it is four numbers"),
        (change("annotations", 3, bbox=[10**400, 2, 3, 4]), "it is four numbers"),
        (change("annotations", 3, bbox=[1, 2, float("inf"), 4]), "no numbers"),
        (change("annotations", 3, category_id=7), "is of class 7; classes are 1, 2"),
        (change("annotations", 3, category_id="red"), "has the category_id 'red'"),
        (change("annotations", 3, iscrowd="maybe"), "iscrowd 'maybe'; it is 0 or 1"),
    ],
)
def test_coco_annotations_that_make_no_sense_are_named_or_left_out(tmp_path: Path, edit: Any, message: str) -> None:
    folder = coco(tmp_path / "d", edit)
    with pytest.raises(DataError, match=message):
        load_images(folder)
    data, _ = loaded(folder, skip_bad=True)
    assert objects(data) == 2 * IMAGES - 1
    assert [bad.key for bad in data.report.bad] == ["01.png"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("images", 3, height=float("nan")), "'03.png' in a.json has the height and width"),
        (change("images", 3, width=-32), "at least 1 pixel"),
        (change("images", 3, width=[32]), "numbers of pixels"),
        (change("images", 3, file_name="a\0.png"), "names the image"),
        (change("images", 3, file_name="a\ud800.png"), "names the image"),
        (change("images", 3, id=2), "image id 2 is listed twice"),
        (change("images", 3, file_name="02.png"), "02.png is listed twice"),
        (change("categories", 1, name=""), "category 2 in a.json has the name ''"),
        (change("categories", 1, id=1), "category 1 in a.json is 'red' and 'blue'"),
        (lambda content: content.pop("categories"), "has no categories"),
    ],
)
def test_coco_files_that_contradict_themselves(tmp_path: Path, edit: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(coco(tmp_path / "d", edit))


@pytest.mark.parametrize("file_name", ["absent/03.png", "00.png/03.png"], ids=["no folder", "a file for a folder"])
def test_an_image_of_a_coco_file_in_a_folder_that_is_not_there(tmp_path: Path, file_name: str) -> None:
    file = coco(tmp_path / "d", change("images", 3, file_name=file_name)) / "a.json"
    with pytest.raises(DataError, match=r"03\.png"):
        load_images(file)
    assert load_images(file, skip_bad=True).report.images == IMAGES - 1


@pytest.mark.parametrize(
    ("edit", "count", "said"),
    [
        (lambda c: c["annotations"].append(c["annotations"][4] | {"id": 99}), 2 * IMAGES, "left out 1 annotation: listed twice"),
        (lambda c: c["images"].append(c["images"][4]), 2 * IMAGES, "lists 1 images twice"),
        (lambda c: c["categories"].append({"id": 1, "name": "red"}), 2 * IMAGES, ""),
        (lambda c: c["categories"].append({"id": 3, "name": "red"}), 2 * IMAGES, "several categories called 'red'"),
        (change("annotations", 3, area="large"), 2 * IMAGES, ""),
        (change("annotations", 3, area=float("nan")), 2 * IMAGES, ""),
        (change("annotations", 3, iscrowd="0"), 2 * IMAGES, ""),
    ],
)
def test_coco_repetitions_and_fields_that_can_be_understood(tmp_path: Path, edit: Any, count: int, said: str) -> None:
    data, notes = loaded(coco(tmp_path / "d", edit))
    assert objects(data) == count
    assert said in notes
    assert "marked as difficult" not in notes
    assert data.class_names == ("red", "blue")
    assert all((target.areas == 72).all() for split in data.splits.values() for target in split.targets)


def test_coco_crowd_as_text_is_a_crowd(tmp_path: Path) -> None:
    assert "left out 1 annotation: marked as difficult, crowd" in loaded(coco(tmp_path / "d", change("annotations", 3, iscrowd="1")))[1]


def test_coco_all_crowd_is_taken_as_objects(tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one["iscrowd"] = 1

    data, notes = loaded(coco(tmp_path / "d", edit, masks=True))
    assert "all 24 annotations have iscrowd=1" in notes
    assert sum(data.report.counts["train"].values()) == 2 * len(data.splits["train"])


def test_coco_files_resized_after_annotation(tmp_path: Path) -> None:
    from pycocotools import mask as rle

    plain, _ = loaded(coco(tmp_path / "a", lambda c: None, masks=True))
    data, notes = loaded(coco(tmp_path / "b", lambda c: None, masks=True, size=(2 * WIDTH, 2 * HEIGHT)))
    assert "12 images have another size than their annotations say" in notes
    assert "48 x 64 pixels instead of 24 x 32" in notes
    one, two = plain.splits["train"].targets[0], data.splits["train"].targets[0]
    np.testing.assert_allclose(one.boxes, two.boxes)
    np.testing.assert_allclose(4 * one.areas, two.areas)
    np.testing.assert_allclose(4.0 * rle.area(list(one.masks)), rle.area(list(two.masks)))


def test_coco_few_masks_are_not_segmentation(tmp_path: Path) -> None:
    data, notes = loaded(coco(tmp_path / "d", change("annotations", 3, segmentation=[POLYGON])))
    assert data.task == "detection"
    assert "1 of 24 objects have masks: the task is detection" in notes


@pytest.mark.parametrize(
    "mask",
    [
        "text", 5, [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [1, 2, 3, 4, 5, 6], [{"x": 1}], [[None] * 6],
        [[1, 2, float("nan"), 4, 5, 6]], [[1, 2, float("inf"), 4, 5, 6]], [[1e9, 1, 2, 1e9, 3, 4]], [[-1e9, 1, 2, 3, 3, 4]],
        [[5, 5] * 4], [[2, 2, 9, 9, 5.5, 5.5]],
        {"counts": [768]}, {"size": [24, 32]}, {"size": [24, 32], "counts": None}, {"size": [32, 24], "counts": [100, 20, 648]},
        {"size": [24, 32], "counts": [100, -20, 688]}, {"size": [24, 32], "counts": [100.0, 20.0, 648.0]},
        {"size": [24, 32], "counts": "zz!"},
        {"size": [10**9, 10**9], "counts": [10**18]}, {"size": [24, 32], "counts": [10**30, 768 - 10**30]}, {"size": "24", "counts": [768]},
        {"size": [24, 32], "counts": [768]}, {"size": [24, 32], "counts": [0, 0] * 1000 + [768]},
    ],
)  # fmt: skip
def test_masks_that_make_no_sense_are_named_or_left_out(tmp_path: Path, mask: Any) -> None:
    folder = coco(tmp_path / "d", change("annotations", 3, segmentation=mask), masks=True)
    with pytest.raises(DataError, match=r"01\.png: .*box 1 \(blue\)"):
        load_images(folder)
    data, _ = loaded(folder, skip_bad=True)
    assert data.task == "instance"
    assert objects(data) == 2 * IMAGES - 1


def test_outlines_are_bounded() -> None:
    """A zigzag of a thousand corners each of which crosses the image would need gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="pixels long"):
        encode_mask([[0, 0, 8000, 6000] * 10_000], 6000, 8000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes more at the peak"
    encode_mask([[0, 0, 8000, 6000, 0, 6000]], 6000, 8000)
    encode_mask([POLYGON] * 50, HEIGHT, WIDTH)
