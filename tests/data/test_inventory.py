"""Every file of a source is used, or left out with a reason; annotations that were found are used, or counted as left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planish.data import load_images
from planish.data.images import ImageData
from planish.data.sources.inventory import Inventory, combined_inventory
from planish.data.sources.reading import read_source, report_found
from planish.errors import DataError
from planish.progress import collecting_notes

WIDTH, HEIGHT = 40, 30


def picture(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *file.name.encode()]).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file


def inventory_of(source: Path | str, task: str | None = None) -> Inventory:
    content = read_source(source, Path("unused"), task)[1]
    report_found(content)
    return content.inventory


def left_out(inventory: Inventory) -> dict[str, tuple[str, int]]:
    """By the first example: what, and how many."""
    return {one.examples[0]: (one.what, one.count) for one in inventory.left_out}


def coco(folder: Path, boxes: dict[str, list[list[float]]], name: str = "annotations.json", **sizes: tuple[int, int]) -> Path:
    images, annotations = [], []
    for number, (file, own) in enumerate(boxes.items()):
        height, width = sizes.get(Path(file).stem, (HEIGHT, WIDTH))
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        annotations += [{"id": len(annotations) + i, "image_id": number, "category_id": 1 + i % 2, "bbox": b} for i, b in enumerate(own)]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder


def test_every_file_of_class_folders_is_accounted_for(tmp_path: Path) -> None:
    for name in ("cat/0.png", "cat/1.PNG", "dog/0.png", "loose.png"):
        picture(tmp_path / name)
    for name in ("cat/2.heic", "cat/3.HEIC", "dog/film.mp4", "README.md", "labels.csv", ".hidden"):
        (tmp_path / name).write_text("x")
    with collecting_notes() as notes:
        found = inventory_of(tmp_path)
    assert (found.layout, found.task, found.images_used) == ("class folders", "classification", 3)
    assert left_out(found) == {
        "cat/2.heic": ("images", 2), "dog/film.mp4": ("images", 1), "loose.png": ("images", 1), "README.md": ("files", 1),
        "labels.csv": ("files", 1),
    }  # fmt: skip
    assert found.images_found == 7
    assert notes[0].endswith("class folders, for classification: 7 images found, 3 used")
    assert len(notes) == 6, "a line for each reason"
    assert any("HEIC" in text and "convert" in text for text in notes)


def test_files_with_two_names_are_counted_once(tmp_path: Path) -> None:
    picture(tmp_path / "a/0.png")
    picture(tmp_path / "b/0.png")
    (tmp_path / "b/again").symlink_to(tmp_path / "a")
    assert inventory_of(tmp_path).left_out == []


def test_images_beside_a_manifest_that_it_does_not_name(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"img/{i}.png")
    picture(tmp_path / "elsewhere/0.png")  # not searched: anything may lie beside a manifest
    (tmp_path / "m.csv").write_text("FileName;Species\nimg/0.png;cat\nimg\\1.png;dog, old\nimg/1.png;dog, old\n")
    found = inventory_of(tmp_path / "m.csv")
    assert left_out(found) == {"img/2.png": ("images", 3), "line 4": ("rows", 1)}
    assert sorted(found.assumptions) == ["the column 'FileName' of m.csv is the path", "the column 'Species' of m.csv is the label"]


@pytest.mark.parametrize(
    ("head", "said"),
    [("image,filename,label", "each of which could be the path"), ("filename,class,xmin", "boxes in a table are not read")],
)
def test_columns_that_could_mean_several_things(tmp_path: Path, head: str, said: str) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / "m.csv").write_text(f"{head}\n0.png,0.png,5\n")
    with pytest.raises(DataError, match=said):
        read_source(tmp_path / "m.csv", tmp_path, None)


def annotated(folder: Path, **sizes: tuple[int, int]) -> Path:
    """Ten images, of which the last has no objects."""
    boxes: dict[str, list[list[float]]] = {f"{i}.png": [[2, 2, 20, 20], [5, 5, 9, 9]] for i in range(9)} | {"9.png": []}
    for name in boxes:
        picture(folder / name)
    return coco(folder, boxes, **sizes)


def balanced(data: ImageData) -> Inventory:
    """What was found is used or left out."""
    found = data.report.inventory
    out = sum(one.annotations + one.count * (one.what == "annotations") for one in found.left_out)
    assert found.annotations_found == (found.annotations_used or 0) + out
    assert found.images_found == found.images_used + sum(one.count for one in found.left_out if one.what == "images")
    assert found.images_used == data.report.images == sum(len(data.splits[s]) for s in ("train", "validation", "test"))  # type: ignore[index]
    assert data.report.objects is not None
    assert found.annotations_used == sum(sum(data.report.objects[s].values()) for s in ("train", "validation", "test"))  # type: ignore[index]
    return found


def test_an_image_whose_annotations_are_left_out_is_left_out(tmp_path: Path) -> None:
    folder = annotated(tmp_path / "d", **{"3": (WIDTH, HEIGHT)})
    content: dict[str, Any] = json.loads((folder / "annotations.json").read_text())
    content["annotations"][0]["bbox"] = [2, 2, 0, 0]  # one of two objects of 0.png
    for one in content["annotations"][2:4]:  # both of 1.png
        one["bbox"] = [99, 99, 5, 5]
    content["annotations"][4]["iscrowd"] = 1
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "8.png").write_bytes(b"broken")
    picture(folder / "unlisted.png")
    with pytest.raises(DataError, match="broken"):
        load_images(folder)
    data = load_images(folder, skip_bad=True)
    keys = {key for split in ("train", "validation", "test") for key in data.splits[split].keys}  # type: ignore[index]
    assert keys == {f"{i}.png" for i in (0, 2, 4, 5, 6, 7, 9)}, "9.png shows nothing, by its annotations"
    found = balanced(data)
    assert (found.annotations_found, found.annotations_used) == (18, 10)
    reasons = {one.reason: (one.what, one.count, one.annotations) for one in found.left_out}
    assert reasons["broken or missing file"] == ("images", 1, 2)
    assert reasons["no valid annotation"] == ("images", 2, 4)
    assert reasons["not valid"] == ("annotations", 1, 0)
    assert reasons["no annotation names them"] == ("images", 1, 0)
    assert "images without annotations show no object: 1" in found.assumptions


def test_images_and_objects_are_counted_apart(tmp_path: Path) -> None:
    report = load_images(annotated(tmp_path / "d")).report
    assert report.task == "detection"
    assert report.objects is not None
    parts = ("train", "validation", "test")
    assert sum(report.split_sizes[s] for s in parts) == 10  # type: ignore[index]
    assert sum(report.counts[s]["dog"] for s in parts) == 9  # type: ignore[index]
    assert sum(report.objects[s]["dog"] + report.objects[s]["cat"] for s in parts) == 18  # type: ignore[index]


def test_label_files_without_an_image_and_images_without_a_label_file(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / f"images/{i}.png")
        (tmp_path / "labels").mkdir(exist_ok=True)
        name = f"{i}.txt" if i < 6 else f"%20{i}.txt"
        (tmp_path / "labels" / name).write_text("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n" if i else "")
    data = load_images(tmp_path)
    found = balanced(data)
    assert left_out(found) == {
        "labels/%206.txt": ("annotation files", 2), "images/6.png": ("images", 2), "images/1.png": ("annotations", 5),
    }  # fmt: skip
    assert data.report.images == 6, "an empty label file says that there is no object"


def test_xml_without_image_and_images_without_xml(tmp_path: Path) -> None:
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for i in range(8):
        picture(tmp_path / f"JPEGImages/{i}.png")
        file = tmp_path / f"Annotations/{i if i < 6 else i + 10}.{'xml' if i else 'XML'}"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"<annotation><object><name>dog</name>{box}</object></annotation>")
    found = balanced(load_images(tmp_path))
    assert left_out(found) == {"Annotations/16.xml": ("annotation files", 2), "JPEGImages/6.png": ("images", 2)}
    assert found.annotations_found == 8


def test_images_without_mask_and_masks_without_image(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / f"images/{i}.png")
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        values[5:9, 5:9] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"masks/{i if i < 7 else 'other'}.png")
    (tmp_path / "classes.txt").write_text("nothing\nthing\n")
    found = load_images(tmp_path).report.inventory
    assert left_out(found) == {"images/7.png": ("images", 1), "masks/other.png": ("masks", 1)}
    assert (found.images_found, found.images_used) == (8, 7)


def test_a_mask_of_another_shape_takes_its_image_with_it(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / f"images/{i}.png")
        values = np.zeros((HEIGHT, WIDTH) if i else (HEIGHT, HEIGHT), np.uint8)
        values[5:9, 5:9] = 1
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"masks/{i}.png")
    with pytest.raises(DataError, match="its mask"):
        load_images(tmp_path)
    data = load_images(tmp_path, skip_bad=True)
    assert data.report.images == sum(len(data.splits[s]) for s in ("train", "validation", "test")) == 7  # type: ignore[index]
    assert data.report.inventory.images_used == 7


def test_two_sources_are_reported_together(tmp_path: Path) -> None:
    for name in ("old/a/0.png", "old/b/0.png", "new/a/1.png"):
        picture(tmp_path / name)
    (tmp_path / "new/a/2.heic").write_text("x")
    found = combined_inventory({"old": inventory_of(tmp_path / "old"), "new": inventory_of(tmp_path / "new")})
    assert (found.images_found, found.images_used) == (4, 3)
    assert next(one.reason for one in found.left_out).endswith("(in new)")


def test_a_folder_that_is_called_like_a_built_in_data_set_is_not_passed_over_without_a_word(tmp_path: Path, monkeypatch) -> None:
    picture(tmp_path / "fashion-mini" / "cat" / "0.png")
    monkeypatch.chdir(tmp_path)
    content = read_source(Path("fashion-mini"), tmp_path / "cache", None)[1]
    assert len(content.images) == 12_000
    assert any("is the built-in data set, not the folder" in text for text in content.inventory.assumptions)
