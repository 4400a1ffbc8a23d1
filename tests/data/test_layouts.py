"""How folders that people have are read: what each is taken for, and what is asked where it could be read in several ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.data.annotations.source import LAYOUTS
from planish.data.sources.reading import read_source, report_found, split_layout, with_layout
from planish.data.sources.source import DataSource, LabelledFiles
from planish.errors import DataError

BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), len(name), np.uint8)).save(root / name, format="JPEG" if "jp" in name.lower() else "PNG")


def mask(file: Path, values: tuple[int, ...] = (0, 1)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((30, 40), values[0], np.uint8)
    pixels[8:16, 8:24] = values[-1]
    Image.fromarray(pixels).save(file, format="JPEG" if file.suffix.lower() == ".jpg" else "PNG", quality=95)


def write_coco(file: Path, names: list[str], **more: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 9, 9], **more} for i in range(len(names))]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}))


def write_yolo(root: Path, *names: str) -> None:
    for name in names:
        pictures(root, name)
        file = root / name.replace("images", "labels")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")


def opened(source: Path | str, task: str | None = None) -> DataSource:
    return read_source(source, Path("unused"), task)[1]


def splits(content: DataSource) -> dict[str | None, int]:
    found = [item.split for item in content.images]
    return {split: found.count(split) for split in found}


def kvasir(root: Path) -> None:
    for i in range(4):
        pictures(root, f"images/{i}.jpg")
        mask(root / f"masks/{i}.jpg", (0, 255))


def isic(root: Path) -> None:
    for i in range(4):
        pictures(root, f"images/ISIC_{i}.jpg")
        mask(root / f"masks/ISIC_{i}_segmentation.png", (0, 255))


def carvana(root: Path) -> None:
    for i in range(4):
        pictures(root, f"train/imgs/{i}.JPG")
        mask(root / f"train/masks/{i}_mask.PNG")


def cityscapes(root: Path) -> None:
    for i in range(4):
        split = "val" if i == 3 else "train"
        pictures(root, f"leftImg8bit/{split}/ulm/ulm_{i}_leftImg8bit.png")
        mask(root / f"gtFine/{split}/ulm/ulm_{i}_gtFine_labelIds.png", (7, 26))


def mmseg(root: Path) -> None:
    for i in range(4):
        split = "validation" if i == 3 else "training"
        pictures(root, f"img_dir/{split}/{i}.jpg")
        mask(root / f"ann_dir/{split}/{i}.png")


@pytest.mark.parametrize(
    ("write", "found"),
    [(kvasir, {None: 4}), (isic, {None: 4}), (carvana, {"train": 4}), (cityscapes, {"train": 3, "validation": 1}),
     (mmseg, {"train": 3, "validation": 1})],
)  # fmt: skip
def test_images_beside_masks_are_segmentation(tmp_path: Path, write: Callable[[Path], None], found: dict[str | None, int]) -> None:
    write(tmp_path)
    content = opened(tmp_path)
    assert (content.task, content.classes) == ("semantic", 2)
    assert splits(content) == found


def test_masks_whose_names_do_not_fit_are_no_class(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png", "masks/x1.png", "masks/x2.png")
    with pytest.raises(DataError, match=r"do not belong together.*--layout classes"):
        opened(tmp_path)
    assert opened(f"classes:{tmp_path}").classes == 2


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Test"), ("training_set", "test_set"), ("train", "test")])
def test_split_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        pictures(tmp_path, *(f"{name}/{kind}/{i}.JPG" for kind in ("cat", "dog") for i in range(2)))
    content = opened(tmp_path)
    assert splits(content) == {"train": 4, "test": 4}
    assert content.classes == 2


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("train2017", "val2017"), ("batch1", "batch2")])
def test_folders_that_may_be_splits_are_asked_about(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        pictures(tmp_path, f"{name}/cat/0.png", f"{name}/dog/0.png")
    with pytest.raises(DataError, match="--layout classes"):
        opened(tmp_path)
    assert opened(f"classes:{tmp_path}").classes == 2


def test_a_split_beside_classes_is_asked_about(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/0.png", "dog/0.png", "val/cat/1.png", "val/dog/1.png")
    with pytest.raises(DataError, match=r"val/ next to cat/.*--layout classes.*--layout splits"):
        opened(tmp_path)
    assert splits(opened(f"splits:{tmp_path}")) == {"train": 2, "validation": 2}
    content = opened(f"classes:{tmp_path}")
    assert isinstance(content, LabelledFiles)
    assert {item.label for item in content.images} == {"cat", "dog", "val"}


def test_split_words_count_as_whole_names_only(tmp_path: Path) -> None:
    pictures(tmp_path, "trainer/0.png", "contest/0.png", "valley/0.png")
    assert splits(opened(tmp_path)) == {None: 3}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"version": "5", "shapes": [], "imagePath": "0.png"}', "labelme"),
        ('{"_via_settings": {}, "_via_img_metadata": {}}', "VIA"),
        ('{"0.png1": {"filename": "0.png", "regions": []}}', "VIA"),
        ('[{"annotations": [{"result": [{"from_name": "label"}]}]}]', "Label Studio"),
        ('{"images": [], "annotations": [{"segments_info": []}]}', "panoptic"),
        ("<annotations><meta/><image id='0'/></annotations>", "CVAT"),
    ],
)
def test_annotations_that_are_not_read_make_no_class_folders(tmp_path: Path, text: str, name: str) -> None:
    pictures(tmp_path, *(f"batch{k}/{i}.png" for k in (1, 2) for i in range(4)))
    (tmp_path / "batch1" / ("a.xml" if text.startswith("<") else "a.json")).write_text(text)
    with pytest.raises(DataError, match=rf"{name}.*--layout classes"):
        opened(tmp_path)
    assert opened(f"classes:{tmp_path}").classes == 2


@pytest.mark.parametrize("name", ["{}.png", "../images/{}.png", "images/{}.png", "..\\images\\{}.png"])
@pytest.mark.parametrize("given", ["", "annotations/instances_all.json"])
def test_coco_in_a_folder_beside_its_images(tmp_path: Path, name: str, given: str) -> None:
    pictures(tmp_path, *(f"images/{i}.png" for i in range(3)))
    write_coco(tmp_path / "annotations/instances_all.json", [name.format(i) for i in range(3)])
    pictures(tmp_path, "images/unlisted.png")
    content = opened(tmp_path / given)
    report_found(content)
    assert [(one.what, one.examples) for one in content.inventory.left_out] == [("images", ["images/unlisted.png"])]
    assert content.task == "detection"
    assert [item.key for item in content.images] == [f"images/{i}.png" for i in range(3)]
    assert all(item.path.is_file() for item in content.images)


def test_coco_files_and_their_splits(tmp_path: Path) -> None:
    for k, name in enumerate(("cars_train.json", "cars_val.json")):
        pictures(tmp_path, f"{k}.png")
        write_coco(tmp_path / name, [f"{k}.png"])
    assert splits(opened(tmp_path)) == {"train": 1, "validation": 1}
    for name in ("crash_test_images", "latest"):
        write_coco(tmp_path / f"{name}.json", [f"{name}.png"])
        pictures(tmp_path, f"{name}.png")
        inventory = opened(tmp_path).inventory
        assert [(one.what, one.examples, one.annotations) for one in inventory.left_out] == [("images", [f"{name}.png"], 1)]
        (tmp_path / f"{name}.json").unlink()
    (tmp_path / "cars_train.json").unlink()
    content = opened(tmp_path)
    assert splits(content) == {None: 1}, "the only file cannot hold validation images alone"
    assert "only annotation file" in content.inventory.assumptions[0]


def test_coco_files_of_other_tasks(tmp_path: Path) -> None:
    pictures(tmp_path, "train2017/0.png", "val2017/1.png")
    folder = tmp_path / "annotations"
    for name in ("captions_train2017", "panoptic_val2017"):
        write_coco(folder / f"{name}.json", ["0.png"])
    with pytest.raises(DataError, match=r"captions_train2017\.json.*another task"):
        opened(tmp_path)
    write_coco(folder / "instances_train2017.json", ["0.png"])
    (folder / "sums.json").write_text('{"images": [], "annotations": [{"segments_info": []}]}')
    inventory = opened(tmp_path).inventory
    assert [(one.what, one.count) for one in inventory.left_out] == [("annotation files", 3)]


def test_two_kinds_of_annotations_are_asked_about(tmp_path: Path) -> None:
    write_yolo(tmp_path, *(f"images/{i}.png" for i in range(3)))
    write_coco(tmp_path / "annotations/instances.json", [f"{i}.png" for i in range(3)])
    with pytest.raises(DataError, match="--layout coco or --layout yolo"):
        opened(tmp_path)
    assert opened(f"coco:{tmp_path}").how == "COCO JSON"
    assert opened(f"yolo:{tmp_path}").how == "YOLO text files"
    with pytest.raises(DataError, match="no Pascal VOC XML"):
        opened(f"voc:{tmp_path}")


def test_boxes_and_masks_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    for i in range(3):
        pictures(tmp_path, f"JPEGImages/{i}.jpg")
        mask(tmp_path / f"SegmentationClass/{i}.png", (0, 12))
        mask(tmp_path / f"SegmentationObject/{i}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{i}.xml").write_text(f"<annotation><object><name>dog</name>{BOX}</object></annotation>")
    with pytest.raises(DataError, match="--task detection"):
        opened(tmp_path)
    assert [opened(tmp_path, task).task for task in ("detection", "instance", "semantic")] == ["detection", "instance", "semantic"]
    with pytest.raises(DataError, match="--task semantic"):
        opened(f"masks:{tmp_path}")


def test_objects_of_which_some_have_masks(tmp_path: Path) -> None:
    polygon = [[2.0, 2.0, 11.0, 2.0, 7.0, 11.0]]
    pictures(tmp_path, *(f"{i}.png" for i in range(8)))
    write_coco(tmp_path / "a.json", [f"{i}.png" for i in range(8)], segmentation=polygon)
    content = json.loads((tmp_path / "a.json").read_text())
    for bare, task in ((0, "instance"), (1, "instance"), (4, None), (7, "detection")):
        for one in content["annotations"][:bare]:
            one["segmentation"] = []
        (tmp_path / "a.json").write_text(json.dumps(content))
        if task is None:
            with pytest.raises(DataError, match=r"4 of 8 objects have a mask.*--task detection"):
                opened(tmp_path)
            assert opened(tmp_path, "detection").task == "detection"
        else:
            found = opened(tmp_path)
            assert found.task == task
            assert any("--task detection" in text for text in found.inventory.assumptions), "the guess is reported"


def test_yolos_yaml_file_as_data(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train/images/0.png", "train/images/1.png", "valid/images/2.png", "test/images/3.png")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: valid/images\nnames: [cat]\n")
    content = opened(tmp_path / "data.yaml")
    assert splits(content) == {"train": 2, "validation": 1}
    assert any("../train/images" in text for text in content.inventory.assumptions), "another folder than it names"
    (tmp_path / "other.yaml").write_text("train: train/images\nval: test/images\nnames: [dog]\n")
    assert len(opened(tmp_path / "other.yaml").images) == 3
    with pytest.raises(DataError, match=r"data\.yaml, other\.yaml .*each describe the data"):
        opened(tmp_path)
    (tmp_path / "none.yaml").write_text("a: 1\n")
    with pytest.raises(DataError, match="has no names"):
        opened(tmp_path / "none.yaml")


def test_upper_case_suffixes_of_label_files(tmp_path: Path) -> None:
    write_yolo(tmp_path, "images/0.PNG", "images/1.png")
    (tmp_path / "labels/0.txt").rename(tmp_path / "labels/0.TXT")
    content = opened(tmp_path)
    assert [len(item.objects) for item in content.images] == [1, 1]  # type: ignore[union-attr]


def test_layouts_are_named_before_the_data() -> None:
    assert with_layout("photos", None) == "photos"
    for layout in LAYOUTS:
        assert split_layout(with_layout("C:/photos", layout)) == ("C:/photos", layout)
    assert split_layout("C:/photos") == ("C:/photos", None)
    with pytest.raises(DataError, match="layouts are classes, splits"):
        with_layout("photos", "folders")
