"""Annotations of COCO and Pascal VOC: read back as written, refused where they make no sense, never followed out of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from planish.data import load_images, task_in, tile_images
from planish.data.annotations.voc import given_splits
from planish.errors import DataError

HEIGHT, WIDTH = 40, 60


def write_coco(folder: Path, annotations: list[dict[str, Any]], images: int = 8, name: str = "{:02d}.png", **more: Any) -> Path:
    """A folder with noisy images and one COCO file; class numbers are not in a row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    listed = []
    for i in range(images):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / f"{i:02d}.png")
        listed.append({"id": 100 + i, "file_name": name.format(i), "height": HEIGHT, "width": WIDTH})
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]} | more
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def box(image: int, category: int = 7, bbox: tuple[float, ...] = (6, 4, 30, 20), **more: Any) -> dict[str, Any]:
    return {"id": image + 1, "image_id": 100 + image, "category_id": category, "bbox": list(bbox), "iscrowd": 0, **more}


def every(**more: Any) -> list[dict[str, Any]]:
    return [box(i, 7 if i % 2 else 3, **more) for i in range(8)]


def test_boxes_are_read_as_shares_of_the_sides(tmp_path: Path) -> None:
    found = load_images(write_coco(tmp_path / "d", every()))
    assert found.task == "detection"
    assert found.class_names == ("dog", "cat"), "in the order of their numbers"
    targets = {key: t for split in found.splits.values() for key, t in zip(split.keys, split.targets, strict=True)}
    assert len(targets) == 8
    np.testing.assert_allclose(targets["01.png"].boxes, [[0.1, 0.1, 0.6, 0.6]], rtol=1e-6)
    assert [targets[f"0{i}.png"].labels.tolist() for i in (0, 1)] == [[0], [1]]
    assert (targets["01.png"].height, targets["01.png"].width) == (HEIGHT, WIDTH)
    assert targets["01.png"].areas.tolist() == [600.0]


@pytest.mark.parametrize("kind", ["polygon", "lengths", "compressed"])
def test_masks_of_every_kind_are_the_same_mask(tmp_path: Path, kind: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:24, 6:36] = 1
    lengths = coco.encode(np.asfortranarray(mask))
    flat = mask.ravel(order="F")
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    given: Any = {
        "polygon": [[6, 4, 36, 4, 36, 24, 6, 24]],
        "lengths": {"size": [HEIGHT, WIDTH], "counts": runs},
        "compressed": {"size": [HEIGHT, WIDTH], "counts": lengths["counts"].decode()},
    }[kind]
    folder = write_coco(tmp_path / "d", every(segmentation=given))
    found = load_images(folder)
    assert found.task == "instance"
    read = found.splits["train"].targets[0].masks[0]
    assert (coco.decode(read) == mask).all()
    painted = load_images(folder, task="semantic")
    assert painted.class_names == ("background", "dog", "cat")
    labels = painted.splits["train"].targets[0]
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert ((labels > 0) == mask).all()
    assert load_images(folder, task="detection").splits["train"].targets[0].masks is None


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    found = load_images(write_coco(tmp_path / "d", every()[:6]))
    assert sum(len(t) == 0 for split in ("train", "validation", "test") for t in found.splits[split].targets) == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (box(0, bbox=(6, 4, 0, 20)), "no area"),
        (box(0, bbox=(6, 4, -5, 20)), "no area"),
        (box(0, bbox=(100, 4, 20, 20)), "outside"),
        (box(0, bbox=(float("nan"), 4, 20, 20)), "no numbers"),
    ],
)
def test_boxes_that_make_no_sense_are_named_or_left_out(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    folder = write_coco(tmp_path / "d", [annotation, *every()[1:]])
    with pytest.raises(DataError, match=said) as error:
        load_images(folder)
    assert "00.png" in str(error.value)
    found = load_images(folder, skip_bad=True)
    assert [bad.key for bad in found.report.bad] == ["00.png"]


def test_boxes_beyond_the_image_are_cut(tmp_path: Path) -> None:
    found = load_images(write_coco(tmp_path / "d", every(bbox=(-6, 4, 120, 20))))
    np.testing.assert_allclose(found.splits["train"].targets[0].boxes, [[0, 0.1, 1, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../{:02d}.png", ""])
def test_no_image_is_read_from_outside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="names the image"):
        load_images(write_coco(tmp_path / "d", every(), name=name))


@pytest.mark.parametrize(
    "broken",
    [
        '{"images": [',
        '{"images": 3, "annotations": []}',
        '{"images": [{"id": 1, "file_name": "00.png"}], "annotations": [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}], '
        '"categories": [{"id": 1, "name": "a"}]}',
        '{"images": [{"id": 1, "file_name": "00.png"}], "annotations": [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1]}], '
        '"categories": [{"id": 1, "name": "a"}]}',
        '{"images": [{"id": 1, "file_name": "00.png"}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1e400]}], '
        '"categories": [{"id": 1, "name": "a"}]}',
        '{"images": [' + "[" * 100_000,
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, broken: str) -> None:
    folder = write_coco(tmp_path / "d", every())
    (folder / "_annotations.coco.json").write_text(broken)
    with pytest.raises(DataError):
        load_images(folder)


def test_a_task_that_data_is_not_for_is_refused(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "d", every())
    for task in ("instance", "semantic", "classification"):
        with pytest.raises(DataError, match="not for the task"):
            load_images(folder, task=task)
    assert task_in(folder) == "detection"
    assert task_in("fashion-mini") == "classification"


def test_boxes_of_images_noted_in_another_size_are_scaled(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "d", every())
    content = json.loads((folder / "_annotations.coco.json").read_text())
    for image in content["images"]:
        image["height"], image["width"] = 2 * HEIGHT, 2 * WIDTH
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    np.testing.assert_allclose(load_images(folder).splits["train"].targets[0].boxes, [[0.05, 0.05, 0.3, 0.3]], rtol=1e-6)


def write_voc(folder: Path, head: str = "", images: int = 8) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    rng = np.random.default_rng(0)
    for i in range(images):
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / "JPEGImages" / f"{i:02d}.png")
        kind = ("dog", "cat")[i % 2]
        (folder / "Annotations" / f"{i:02d}.xml").write_text(
            f"{head}<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object><name>{kind}</name>"
            "<bndbox><xmin>7</xmin><ymin>5</ymin><xmax>36</xmax><ymax>24</ymax></bndbox></object></annotation>"
        )
    return folder


def test_voc_counts_pixels_from_one_and_names_the_last(tmp_path: Path) -> None:
    found = load_images(write_voc(tmp_path / "v"))
    assert found.class_names == ("cat", "dog")
    np.testing.assert_allclose(found.splits["train"].targets[0].boxes, [[0.1, 0.1, 0.6, 0.6]], rtol=1e-6)


def test_entities_are_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'
    with pytest.raises(DataError, match="entities"):
        load_images(write_voc(tmp_path / "v", bomb))


def test_a_network_learns_from_the_built_in_scenes(tmp_path: Path) -> None:
    """From a name to an exported file that finds something, and its page; a few steps of a very small network."""
    from planish.commands import evaluate, export, train, verify

    trained = train("fashion-scenes-40", task="detection", model="resnet8", out=tmp_path / "m", changes=["epochs=1", "image_size=64"])
    assert set(trained.metrics) >= {"map", "map_50", "map_75", "mar_100"}
    assert (tmp_path / "m" / "evaluation.html").stat().st_size > 50_000, "with pictures"
    bundle = export(tmp_path / "m", "fashion-scenes-40", to="onnx", out=tmp_path / "b", int8=True)
    assert verify(bundle, latency=False).ok
    assert evaluate(bundle, "fashion-scenes-40")["map"].n == trained.metrics["map"].n


def test_more_classes_than_a_label_map_holds_are_refused(tmp_path: Path) -> None:
    """As in LVIS: labels above 255 were painted modulo 256."""
    annotations = [box(i, 300, segmentation=[[6, 4, 36, 4, 36, 24, 6, 24]]) for i in range(8)]
    folder = write_coco(tmp_path / "d", annotations, categories=[{"id": i, "name": f"c{i}"} for i in range(1, 301)])
    with pytest.raises(DataError, match="301 classes"):
        load_images(folder, task="semantic")
    assert load_images(folder).task == "instance"


def test_empty_polygons_are_no_masks(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "d", every(segmentation=[[]]))
    assert load_images(folder).task == "detection"


def test_annotations_that_are_all_invalid_leave_no_image(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "d", [box(i, bbox=(100, 100, 5, 5)) for i in range(8)])
    for call in (
        lambda: load_images(folder, skip_bad=True),
        lambda: load_images(folder, skip_bad=True, class_names=("dog", "cat")),
        lambda: tile_images(folder, tmp_path / "tiles", size=20, skip_bad=True),
    ):
        with pytest.raises(DataError, match="no usable image"):
            call()


def test_names_with_spaces_in_lists_of_splits(tmp_path: Path) -> None:
    folder = tmp_path / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("my photo (1)\nmy photo (2)\n")
    (folder / "val.txt").write_text("my house 1\n\nme 0\n" + "2008_01 -1\n")
    (folder / "test.txt").write_text('"your photo"\r\n2007_02\r\n')
    wanted = {"my photo (1)": "train", "my photo (2)": "train", "your photo": "test", "2007_02": "test"}
    wanted |= dict.fromkeys(("my house", "me", "2008_01"), "validation")
    assert given_splits(tmp_path) == {(tmp_path, name): split for name, split in wanted.items()}
