"""Images for a model are numbered by the model's classes, matched by name; fewer classes and another order are no fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planish.data.images import ImageData, load_images
from planish.errors import DataError
from planish.progress import collecting_notes

MODEL = ("red", "green", "blue")


def picture(seed: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(path)


def folders(root: Path, names: tuple[str, ...]) -> Path:
    for k, name in enumerate(names):
        for i in range(5):
            picture(10 * k + i, root / name / f"{i}.png")
    return root


def split_folders(root: Path, names: tuple[str, ...]) -> Path:
    for number, part in enumerate(("train", "val", "test")):
        for k, name in enumerate(names if part != "test" else names[:1]):
            for i in range(4):
                picture(100 * number + 10 * k + i, root / part / name / f"{i}.png")
    return root


def manifest(root: Path, names: tuple[str, ...]) -> Path:
    folders(root, names)
    (root / "m.csv").write_text("path,label\n" + "".join(f"{name}/{i}.png,{name}\n" for name in names for i in range(5)))
    return root / "m.csv"


def coco(root: Path, names: tuple[str, ...], declared: tuple[str, ...] | None = None, masks: bool = False) -> Path:
    declared = declared or names
    images, annotations = [], []
    for i in range(12):
        picture(i, root / f"{i:02d}.png")
        images.append({"id": i, "file_name": f"{i:02d}.png", "height": 24, "width": 32})
        for k, name in enumerate(names):
            box = [2 + 9 * k, 3, 8, 9]
            polygon = [[box[0], 3, box[0] + 8, 3, box[0] + 8, 12, box[0], 12]]
            number = declared.index(name) + 1
            annotations.append({"id": len(annotations), "image_id": i, "category_id": number, "bbox": box, "area": 72, "iscrowd": 0})
            if masks:
                annotations[-1]["segmentation"] = polygon
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(declared)]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def yolo(root: Path, names: tuple[str, ...]) -> Path:
    for i in range(12):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / "labels").mkdir(exist_ok=True)
        lines = [f"{k} {(6 + 9 * k) / 32} {7.5 / 24} {8 / 32} {9 / 24}\n" for k in range(len(names))]
        (root / "labels" / f"{i:02d}.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("\n".join(names))
    return root


def voc(root: Path, names: tuple[str, ...]) -> Path:
    for i in range(12):
        picture(i, root / "JPEGImages" / f"{i:02d}.png")
        (root / "Annotations").mkdir(exist_ok=True)
        boxes = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{3 + 9 * k}</xmin><ymin>4</ymin><xmax>{10 + 9 * k}</xmax><ymax>12</ymax></bndbox>"
            "</object>"
            for k, name in enumerate(names)
        )
        (root / "Annotations" / f"{i:02d}.xml").write_text(f"<annotation>{boxes}</annotation>")
    return root


def label_maps(root: Path, names: tuple[str, ...]) -> Path:
    for i in range(12):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / "masks").mkdir(exist_ok=True)
        values = np.zeros((24, 32), np.uint8)
        for k in range(1, len(names)):
            values[3:12, 2 + 9 * k : 10 + 9 * k] = k
        Image.fromarray(values).save(root / "masks" / f"{i:02d}.png")
    (root / "classes.json").write_text(json.dumps(list(names)))
    return root


def class_at(data: ImageData, column: int) -> set[int]:
    """What is told of a pixel in all images."""
    found = set()
    for split in data.splits.values():
        for i in range(len(split)):
            target: Any = split.targets[i]
            if isinstance(target, np.ndarray):
                found.add(int(target[7, column]))
            else:
                inside = (target.boxes[:, 0] * 32 <= column) & (column <= target.boxes[:, 2] * 32)
                found |= set(target.labels[inside].tolist())
    return found


@pytest.mark.parametrize("write", [folders, manifest])
@pytest.mark.parametrize("names", [("blue", "green", "red"), ("blue", "green"), ("blue",)])
def test_classification(tmp_path: Path, write: Any, names: tuple[str, ...]) -> None:
    with collecting_notes() as notes:
        data = load_images(write(tmp_path / "d", names), class_names=MODEL)
    assert data.class_names == MODEL
    for split in data.splits.values():
        assert [MODEL[t] for t in split.targets] == [key.split("/")[0] for key in split.keys]
    told = [text for text in notes if "by name" in text]
    assert len(told) == 1
    assert ("'red'" in told[0]) == ("red" not in names)


def test_a_class_may_be_absent_from_the_test_folder(tmp_path: Path) -> None:
    folder = split_folders(tmp_path / "d", ("blue", "red"))
    with pytest.raises(DataError, match="no image of 'red' in test"):
        load_images(folder)
    data = load_images(folder, class_names=MODEL)
    assert set(data.splits["test"].targets.tolist()) == {2}
    assert set(data.splits["train"].targets.tolist()) == {0, 2}
    only_test = load_images(folders(tmp_path / "e" / "test", ("blue", "red")).parent, class_names=MODEL)
    assert len(only_test.splits["test"]) == 10
    assert not len(only_test.splits["train"])


@pytest.mark.parametrize("write", [coco, yolo, voc])
def test_detection(tmp_path: Path, write: Any) -> None:
    with collecting_notes() as notes:
        data = load_images(write(tmp_path / "d", ("blue", "red")), class_names=MODEL)
    assert data.class_names == MODEL
    assert class_at(data, 6) == {2}
    assert class_at(data, 15) == {0}
    assert data.report.counts["train"] == {"red": len(data.splits["train"]), "green": 0, "blue": len(data.splits["train"])}
    assert any("1 of its 3 are not in the images: 'green'" in text for text in notes)


@pytest.mark.parametrize(("task", "names"), [("instance", MODEL), ("semantic", ("background", *MODEL))])
def test_masks_of_objects(tmp_path: Path, task: str, names: tuple[str, ...]) -> None:
    data = load_images(coco(tmp_path / "d", ("blue", "red"), masks=True), task=task, class_names=names)
    assert data.class_names == names
    assert class_at(data, 6) == {names.index("blue")}
    assert class_at(data, 15) == {names.index("red")}
    assert data.report.counts["train"]["blue"] == len(data.splits["train"])


def test_label_maps(tmp_path: Path) -> None:
    names = ("background", *MODEL)
    data = load_images(label_maps(tmp_path / "d", ("background", "blue", "red")), class_names=names)
    assert data.class_names == names
    assert class_at(data, 15) == {3}
    assert class_at(data, 24) == {1}
    assert class_at(data, 1) == {0}
    assert data.report.counts["train"]["green"] == 0
    alone = load_images(label_maps(tmp_path / "e", ("background",)), class_names=names)
    assert class_at(alone, 15) == {0}
    with pytest.raises(DataError, match="'background' alone"):
        load_images(tmp_path / "e")


@pytest.mark.parametrize("write", [folders, manifest, coco, yolo, voc, label_maps])
def test_classes_that_the_model_lacks_are_named(tmp_path: Path, write: Any) -> None:
    with pytest.raises(DataError, match=r"the model lacks 1 of the classes in the images: 'pink'; it has 'background', 'red'"):
        load_images(write(tmp_path / "d", ("background", "red", "pink")), class_names=("background", "red", "green"))


def test_unused_classes_need_not_be_the_models(tmp_path: Path) -> None:
    with collecting_notes() as notes:
        data = load_images(coco(tmp_path / "d", ("blue", "red"), declared=("none", "red", "blue")), class_names=MODEL)
    assert data.class_names == MODEL
    assert class_at(data, 6) == {2}
    assert any("'none'" in text for text in notes)


@pytest.mark.parametrize("write", [coco, yolo])
def test_unused_classes_keep_their_place(tmp_path: Path, write: Any) -> None:
    if write is coco:
        coco(tmp_path / "d", ("red", "blue"), declared=("none", "red", "green", "blue"))
    else:
        yolo(tmp_path / "d", ("red", "blue"))
        (tmp_path / "d" / "classes.txt").write_text("none\nred\ngreen\nblue\n")
        for file in (tmp_path / "d" / "labels").iterdir():
            file.write_text(file.read_text().replace("1 ", "3 ", 1).replace("\n0 ", "\n1 ").replace("0 0.1875", "1 0.1875"))
    with collecting_notes() as notes:
        data = load_images(tmp_path / "d")
    assert data.class_names == ("none", "red", "green", "blue")
    assert class_at(data, 6) == {1}
    assert class_at(data, 15) == {3}
    assert any("2 of 4 classes have no object and keep their place in the order: 'none', 'green'" in text for text in notes)
