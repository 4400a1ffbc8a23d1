"""Data sets as other tools lay them out: where files lie, how numbers are written, and what is refused rather than guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import HEIGHT, IMAGES, WIDTH, loaded, picture
from PIL import Image

from planish.data.annotations.coco import coco_files, is_coco, read_coco
from planish.data.annotations.masks import masked_images, read_label_maps, read_object_masks
from planish.data.annotations.voc import given_splits, read_voc, split_of, voc_files
from planish.data.annotations.yolo import read_yolo, yolo_layout
from planish.data.sources.listing import list_folder
from planish.errors import DataError
from planish.files.yaml_text import parse_yaml

BOX = [16, 3, 10, 12]


def coco(root: Path, name: str = "{:02d}.png", folder: str = "images", file: str = "a.json", **fields: Any) -> Path:
    """Three images with an object each; ``fields`` change all annotations, and one of None is taken away."""
    for i in range(3):
        picture(i, root / folder / f"{i:02d}.png")
    images = [{"id": i, "file_name": name.format(i), "height": HEIGHT, "width": WIDTH} for i in range(3)]
    one = {key: value for key, value in {"category_id": 1, "bbox": BOX, **fields}.items() if value is not None}
    content = {
        "images": images,
        "annotations": [{"id": i, "image_id": i, **one} for i in range(3)],
        "categories": [{"id": 1, "name": "red"}],
    }
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("/home/somebody/images/{:02d}.png", "images", "a.json"),
        ("C:\\data\\images\\{:02d}.png", "images", "a.json"),
        ("JPEGImages/{:02d}", "images", "a.json"),
        ("{:02d}.PNG", "images", "a.json"),
        ("{:02d}.png", "data", "labels.json"),
        ("{:02d}.png", "train2017", "annotations/lvis_v1_train.json"),
    ],
    ids=["absolute", "Windows", "another folder", "case", "FiftyOne", "LVIS"],
)
def test_images_of_coco_files_are_found(tmp_path: Path, name: str, folder: str, file: str) -> None:
    root = coco(tmp_path, name, folder, file)
    images, _ = read_coco(root, coco_files(root))
    assert [image.key for image in images] == [f"{folder}/{i:02d}.png" for i in range(3)]


def test_coco_images_of_one_split_are_not_taken_for_those_of_another(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(tmp_path, "{:02d}.png", f"{split}2017", f"annotations/instances_{split}.json")
    images, _ = read_coco(tmp_path, coco_files(tmp_path))
    assert {(image.key.split("/")[0], image.split) for image in images} == {("train2017", "train"), ("val2017", "validation")}


@pytest.mark.parametrize(
    ("bbox", "message"),
    [([16, 3, 26, 15], "left, top, right and bottom"), ([0.5, 0.125, 0.3, 0.5], "within the first pixel")],
    ids=["corners", "normalized"],
)
def test_coco_boxes_of_other_kinds_are_refused(tmp_path: Path, bbox: list[float], message: str) -> None:
    root = coco(tmp_path, bbox=bbox)
    with pytest.raises(DataError, match=message):
        read_coco(root, coco_files(root))


def test_large_boxes_are_not_taken_for_corners(tmp_path: Path) -> None:
    root = coco(tmp_path, bbox=[2, 2, 28, 20])
    assert [image.objects[0].box for image in read_coco(root, coco_files(root))[0]] == [(2, 2, 30, 22)] * 3


@pytest.mark.parametrize("number", [1.5, True])
def test_coco_category_ids_that_are_no_whole_numbers(tmp_path: Path, number: Any) -> None:
    root = coco(tmp_path, category_id=number)
    images, _ = read_coco(root, coco_files(root))
    assert [len(image.faults) for image in images] == [1, 1, 1]
    assert not any(image.objects for image in images)


def test_coco_boxes_are_those_of_polygons_where_there_are_none(tmp_path: Path) -> None:
    root = coco(tmp_path, bbox=None, segmentation=[[3, 4, 9, 4, 9, 12], [1, 5, 2, 5, 2, 7]])
    assert [image.objects[0].box for image in read_coco(root, coco_files(root))[0]] == [(1, 4, 9, 12)] * 3


@pytest.mark.parametrize(("key", "value"), [("categories", {"1": "red"}), ("categories", ["red"]), ("annotations", {"1": {"id": 1}})])
def test_coco_lists_of_other_types_are_named(tmp_path: Path, key: str, value: Any) -> None:
    root = coco(tmp_path)
    (root / "a.json").write_text(json.dumps(json.loads((root / "a.json").read_text()) | {key: value}))
    with pytest.raises(DataError, match=f"{key} is a list of objects"):
        read_coco(root, coco_files(root))


def test_a_list_of_categories_beside_yolo_files_is_not_coco(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "red"}], "info": {"year": 2024}}')
    assert not is_coco(tmp_path / "notes.json")


def yolo(root: Path, label: str, labels: str = "labels", **files: str) -> Path:
    for i in range(3):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / labels).mkdir(exist_ok=True)
        (root / labels / f"{i:02d}.txt").write_text(label)
    for name, text in files.items():
        (root / name.replace("_", "/").replace("0", ".")).write_text(text)
    return root


def read(root: Path) -> tuple[Any, tuple[str, ...]]:
    layout = yolo_layout(root)
    assert layout is not None
    return read_yolo(root, layout)


def test_yolo_corners_are_refused_and_large_boxes_are_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="left, top, right and bottom"):
        read(yolo(tmp_path / "a", "0 0.1 0.2 0.4 0.8\n"))
    assert len(read(yolo(tmp_path / "b", "0 0.48 0.5 0.9 0.95\n"))[0]) == 3


def test_yolo_class_names_beside_the_labels(tmp_path: Path) -> None:
    assert read(yolo(tmp_path / "a", "1 0.5 0.5 0.2 0.2\n", "images", images_classes0txt="red\nblue\n\n"))[1] == ("red", "blue")
    with pytest.raises(DataError, match="line 2 is empty"):
        read(yolo(tmp_path / "b", "1 0.5 0.5 0.2 0.2\n", classes0txt="red\n\nblue\n"))


def test_yolo_folders_and_keys_of_other_tools(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.2\n", "Labels", train0txt="images/00.png\nimages/01.png", valid0txt="images/02.png")
    (root / "data.yaml").write_text("valid: valid.txt\ntrain: train.txt\nnames: [red]\n")
    assert [image.split for image in read(root)[0]] == ["train", "train", "validation"]


def test_errors_in_yaml_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^line 2, column 1: [^\n]*found character '\\t'[^\n]*$"):
        parse_yaml("names:\n\t- red\n")


XML = "<annotation><object><name>red</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("image", "xml"),
    [("images/{}.png", "annotations/xmls/{}.xml"), ("images/train/{}.png", "annotations/train/{}.xml")],
    ids=["Oxford pets", "split below annotations"],
)
def test_voc_annotations_in_subfolders(tmp_path: Path, image: str, xml: str) -> None:
    for i in range(2):
        picture(i, tmp_path / image.format(i))
        (tmp_path / xml.format(i)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / xml.format(i)).write_text(XML)
    assert [one.key for one in read_voc(tmp_path, voc_files(tmp_path))[0]] == [image.format(i) for i in range(2)]
    if "train" in image:
        (tmp_path / "images/0.png").symlink_to(tmp_path / "images/train/0.png")
        (tmp_path / "annotations/val").mkdir()
        (tmp_path / "annotations/val/0.xml").write_text(XML)
        (tmp_path / "annotations/test").mkdir()
        (tmp_path / "annotations/test/0.xml").write_text(XML)
        with pytest.raises(DataError, match=r"are both of the image 0\.png"):
            read_voc(tmp_path, voc_files(tmp_path))


def test_image_sets_hold_for_their_own_folder(tmp_path: Path) -> None:
    for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
        (tmp_path / year / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / year / f"ImageSets/Main/{split}.txt").write_text("00\n")
    splits = given_splits(tmp_path)
    assert split_of(splits, tmp_path / "VOC2007/JPEGImages/00.jpg") == "train"
    assert split_of(splits, tmp_path / "VOC2012/JPEGImages/00.jpg") == "validation"


def masks(root: Path, image: str, mask: str, values: Callable[[], np.ndarray] | None = None) -> Path:
    stripes = np.repeat(np.arange(WIDTH)[None] // 8, HEIGHT, 0).astype(np.uint8)
    for i in range(IMAGES):
        picture(i, root / image.format(i))
        (root / mask.format(i)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes if values is None else values()).save(root / mask.format(i))
    return root


@pytest.mark.parametrize(
    ("image", "mask"), [("a/{}.jpg", "a/{}_mask.png"), ("{}.png", "{}_mask.png"), ("images/{}.jpg", "ground_truth/{}.png")]
)
def test_masks_beside_images_are_label_maps(tmp_path: Path, image: str, mask: str) -> None:
    data, _ = loaded(masks(tmp_path, image, mask))
    assert (data.task, data.report.images) == ("semantic", IMAGES)
    assert data.splits["train"].targets[0][0].tolist() == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8


def test_a_class_with_a_few_masks_is_not_segmentation(tmp_path: Path) -> None:
    for name in ("cat/1", "cat/2", "cat/2_mask", "dog/1", "dog/2"):
        picture(1, tmp_path / f"{name}.png")
    assert not masked_images(tmp_path)


def test_jpeg_masks_of_neighbouring_values_and_of_objects_are_refused(tmp_path: Path) -> None:
    root = masks(
        tmp_path / "a", "images/{}.png", "masks/{}.jpg", lambda: np.repeat(np.arange(WIDTH)[None] // 5, HEIGHT, 0).astype(np.uint8)
    )
    with pytest.raises(DataError, match="JPEG changes values"):
        read_label_maps(root, masked_images(root))
    root = masks(tmp_path / "b", "images/{}.png", "instances/{}.jpg")
    for file in (root / "instances").iterdir():
        file.rename(file.with_suffix(".png"))  # the content decides
    with pytest.raises(DataError, match="is a JPEG"):
        read_object_masks(root, masked_images(root))


def test_colours_that_cvat_names(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255], [0, 0, 0]], np.uint8)
    root = masks(tmp_path, "images/{}.png", "masks/{}.png", lambda: np.repeat(colours.repeat(8, 0)[None], HEIGHT, 0))
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:51,221,255::\nbus:250,50,83::\n")
    data, _ = loaded(root)
    assert data.class_names == ("background", "car", "bus")
    assert data.splits["train"].targets[0][0].tolist() == [0] * 8 + [2] * 8 + [1] * 8 + [0] * 8


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_class_folders_of_other_systems(tmp_path: Path) -> None:
    root = folders(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png", "dog/1.png", "dog/THUMBS.DB", "$RECYCLE.BIN/x", "__pycache__/x.pyc")
    assert [(item.label, item.path.name) for item in list_folder(root)] == [
        ("caf\u00e9", "2.png"),
        ("caf\u00e9", "1.png"),
        ("dog", "1.png"),
    ]


def test_test_images_without_labels_are_left_out(tmp_path: Path) -> None:
    root = folders(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png")
    assert [item.key for item in list_folder(root)] == ["train/cat/1.png", "train/dog/1.png"]


def test_images_beside_a_folder_with_the_same_names_are_no_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images and masks"):
        list_folder(folders(tmp_path, "images/1.png", "images/2.png", "masks_png/1.png", "masks_png/2.png"))


def test_names_that_are_nearly_the_same_and_nested_folders_are_noted(tmp_path: Path) -> None:
    for i in range(6):
        for k, folder in enumerate(("Cat", "cat", "dog/puppy")):
            picture(10 * i + k, tmp_path / folder / f"{i}.png")
    notes = loaded(tmp_path)[1]
    assert "differ only in case or spaces are different classes: 'Cat', 'cat'" in notes
    assert "6 images are in subfolders of class folders: dog/puppy/0.png is of the class 'dog'" in notes


def test_the_folder_above_the_classes_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"if the folders in it are classes \('cat', 'dog'\), give the folder"):
        loaded(folders(tmp_path, "data/cat/1.png", "data/dog/1.png"))
