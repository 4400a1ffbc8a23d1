"""What annotation files hold that their formats do not allow, or that readers often take for something else."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from planish.data.annotations.map_codes import codes_in
from planish.data.annotations.validation import encode_mask
from planish.data.images import ImageData, load_images
from planish.errors import DataError
from planish.progress import collecting_notes

HEIGHT, WIDTH, IMAGES = 24, 32, 12
POLYGON = [2, 3, 10, 3, 10, 12, 2, 12]


def picture(number: int, path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(path)


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


def yolo(root: Path, line: str = "0 0.3 0.4 0.2 0.3\n1 0.6 0.5 0.2 0.2\n", first: bytes | None = None, **files: str) -> Path:
    """``line`` is the label of all images but perhaps the first; ``files`` lie in the root, with ``_`` for the dot."""
    for i in range(IMAGES):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{i:02d}.txt").write_text(line)
    if first is not None:
        (root / "labels" / "00.txt").write_bytes(first)
    for name, text in ({"classes_txt": "red\nblue\n"} | files).items():
        (root / name.replace("_", ".")).write_text(text)
    return root


def voc(root: Path, first: str | bytes | None = None, width: str = "32", height: str = "24") -> Path:
    """``first`` is what the first file's annotation holds, or all of that file in bytes."""
    box = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>4</ymin><xmax>{}</xmax><ymax>12</ymax></bndbox></object>"
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    for i in range(IMAGES):
        picture(i, root / "JPEGImages" / f"{i:02d}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{i:02d}.xml").write_text(
            f"<annotation>{size}{box.format('red', 3, 10)}{box.format('blue', 13, 20)}</annotation>"
        )
    if first is not None:
        content = first if isinstance(first, bytes) else f"<annotation>{size}{first}</annotation>".encode()
        (root / "Annotations" / "00.xml").write_bytes(content)
    return root


def maps(root: Path, values: Callable[[int], np.ndarray | Image.Image], suffix: str = ".png", names: Any = None, **options: Any) -> Path:
    for i in range(IMAGES):
        picture(i, root / "images" / f"{i:02d}.png")
        (root / "masks").mkdir(exist_ok=True)
        made = values(i)
        (made if isinstance(made, Image.Image) else Image.fromarray(made)).save(root / "masks" / f"{i:02d}{suffix}", **options)
    if names is not None:
        (root / "classes.json").write_text(json.dumps(names))
    return root


def stripes(*values: int) -> np.ndarray:
    return np.repeat(np.repeat(np.array(values, np.uint8), -(-WIDTH // len(values)))[None, :WIDTH], HEIGHT, axis=0)


def objects(data: ImageData) -> int:
    return sum(len(target) for name, split in data.splits.items() if name != "calibration" for target in split.targets)


def loaded(source: Path, **options: Any) -> tuple[ImageData, str]:
    with collecting_notes() as notes:
        data = load_images(source, **options)
    return data, "\n".join(notes)


# ---- COCO


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


# ---- YOLO

KEY_POINTS = "0 0.5 0.5 0.2 0.4 0.45 0.4 2 0.55 0.6 1\n"
KEY_POINTS_3 = "0 0.5 0.5 0.2 0.4 0.45 0.4 0.55 0.6 0.5 0.5\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (KEY_POINTS, "key points"),
        (KEY_POINTS_3, "key points"),
        ("0 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n", "oriented boxes"),
        ("0,0.5,0.5,0.2,0.2\n", "is of class '0,0.5"),
        ("0 0,5 0,5 0,2 0,2\n", "no numbers"),
    ],
)
def test_yolo_labels_of_other_kinds(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_images(yolo(tmp_path / "d", line))


def test_yolo_polygons_are_no_key_points(tmp_path: Path) -> None:
    data, _ = loaded(yolo(tmp_path / "d", "0 0.1 0.1 0.4 0.1 0.4 0.4 0.2 0.5 0.1 0.4\n1 0.5 0.5 0.8 0.5 0.8 0.9 0.6 0.95 0.5 0.9\n"))
    assert data.task == "instance"
    assert objects(data) == 2 * IMAGES


@pytest.mark.parametrize(
    ("first", "count", "said"),
    [
        (b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n1 0.4 0.4 0.2 0.2\r\n", 2, ""),
        (b"0 0.5 0.5 0.2 0.2\r1 0.4 0.4 0.2 0.2\r", 2, ""),
        (b"0\t5e-1 0.5 2E-1 0.2\n\n  \n", 1, ""),
        (b"0 0.5 0.5 0.2 0.2\n0 0.50 0.500 0.20 0.2\n", 1, "left out 1 annotation: listed twice"),
        (b"", 0, ""),
    ],
)
def test_yolo_labels_that_can_be_understood(tmp_path: Path, first: bytes, count: int, said: str) -> None:
    data, notes = loaded(yolo(tmp_path / "d", first=first))
    assert objects(data) == 2 * (IMAGES - 1) + count
    assert said in notes


@pytest.mark.parametrize("first", ["0 0.5 0.5 0.2 0.2\n".encode("utf-16"), b"0 0.5 0.5 0.2 0.2 \xe9\n"])
def test_yolo_labels_in_other_encodings(tmp_path: Path, first: bytes) -> None:
    with pytest.raises(DataError, match=r"labels/00\.txt cannot be read"):
        load_images(yolo(tmp_path / "d", first=first))


def test_yolo_label_files_find_their_images(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "d")
    (folder / "labels" / "00.txt").rename(folder / "labels" / "00.TXT")
    (folder / "labels" / "01.txt").rename(folder / "labels" / "img%2001.txt")
    (folder / "labels" / "02.txt").unlink()
    (folder / "labels" / "02.txt").mkdir()
    picture(99, folder / "images" / "03.jpg")
    _, notes = loaded(folder)
    assert "left out 1 annotation file, with 2 annotations: no image of that name (labels/img%2001.txt)" in notes
    assert "left out 2 images: no label file, while there are label files without an image" in notes
    assert "1 label files belong to several images, which all have their objects: for example images/03.jpg, images/03.png" in notes


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\nval: images\nnames: [[red], blue]\n", r"hold \['red'\]"),
        ("train: images\nval: images\nnames: red\n", "are 'red'"),
        ("train: images\nval: images\nnc: 3\nnames: [red, blue]\n", "nc: 3, and names 2"),
        ("train: 5\nval: images\nnames: [red, blue]\n", "'5' for train"),
        ("train: images\nval: images\nkpt_shape: [17, 3]\nnames: [red, blue]\n", "kpt_shape"),
        ("train: train.txt\nval: images\nnames: [red, blue]\n", r"names 1 of 2 images that do not exist: gone\.png"),
    ],
)
def test_yolo_descriptions_that_cannot_be_used(tmp_path: Path, yaml: str, message: str) -> None:
    folder = yolo(tmp_path / "d", data_yaml=yaml)
    (folder / "train.txt").write_bytes(b"\xef\xbb\xbfimages\\00.png\r\ngone.png\r\n")
    with pytest.raises(DataError, match=message):
        load_images(folder)


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("names: [none, pink, red]\n", ("none", "pink", "red")),
        ("path: /mnt/x\ntrain: /home/me/d/images\nnames: {1: b, 0: a}\nkpt_shape: null\n", ("a", "b")),
        ("train: ..\\images\nnames: {a: 0, b: 1}\n", ("a", "b")),
        ("train: images\nnames: [same, same]\n", ("same",)),
    ],
)
def test_yolo_descriptions_of_other_machines(tmp_path: Path, yaml: str, names: tuple[str, ...]) -> None:
    data, _ = loaded(yolo(tmp_path / "d", data_yaml=yaml))
    assert data.class_names == names
    assert objects(data) == 2 * IMAGES


# ---- Pascal VOC

BOX = "<object><name>red</name><bndbox><xmin>{}</xmin><ymin>4</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>"


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (BOX.format("left"), "object 0 in 00.xml has a bndbox whose"),
        ("<object><name>red</name></object>", "object 0 in 00.xml has no bndbox"),
        ("<object><name>red</name><robndbox><cx>1</cx></robndbox></object>", "no bndbox, but robndbox"),
        ("<object><name>red</name><polygon><x1>1</x1></polygon></object>", "no bndbox, but polygon"),
        (BOX.format("nan"), "no numbers"),
    ],
)
def test_voc_objects_that_make_no_sense_are_named_or_left_out(tmp_path: Path, first: str, message: str) -> None:
    folder = voc(tmp_path / "d", first + BOX.format(2))
    with pytest.raises(DataError, match=message):
        load_images(folder)
    assert objects(loaded(folder, skip_bad=True)[0]) == 2 * (IMAGES - 1) + 1


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (b"", "cannot be read"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding"),
        (b"<html/>", "'html' at its root"),
        ("<size><width>wide</width><height>24</height></size>", ""),
    ],
)
def test_voc_files_that_cannot_be_used(tmp_path: Path, first: str | bytes, message: str) -> None:
    width = "32" if message else "wide"
    with pytest.raises(DataError, match=message or "width of 'wide'"):
        load_images(voc(tmp_path / "d", first, width=width))


def test_voc_upper_case_repetitions_and_sizes(tmp_path: Path) -> None:
    folder = voc(tmp_path / "d", BOX.format(2) + BOX.format(2), width="64", height="48.0")
    (folder / "JPEGImages" / "01.jpg").rename(folder / "JPEGImages" / "01.JPG")
    (folder / "Annotations" / "02.xml").rename(folder / "Annotations" / "02.XML")
    (folder / "JPEGImages" / "03.jpg").unlink()
    data, notes = loaded(folder)
    assert data.report.images == IMAGES - 1
    assert objects(data) == 2 * (IMAGES - 2) + 1
    assert "left out 1 annotation: listed twice" in notes
    assert "11 images have another size" in notes
    assert "left out 1 annotation file" in notes


def test_voc_lists(tmp_path: Path) -> None:
    folder = voc(tmp_path / "d")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_bytes(b"".join(b"%02d\r\n" % i for i in range(9)) + b"caf\xe9\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("09\n10\n11\n")
    data, notes = loaded(folder)
    assert len(data.splits["validation"]) == 3
    assert "1 names in ImageSets have no image with an XML file, for example caf%E9" in notes
    (folder / "ImageSets" / "Main" / "val.txt").write_text("08\n09\n")
    with pytest.raises(DataError, match="has '08' in train and in validation"):
        load_images(folder)


# ---- label maps


def stray(*values: int, pixels: int = 2) -> Callable[[int], np.ndarray]:
    def made(number: int) -> np.ndarray:
        found, rng = stripes(0, 255), np.random.default_rng(number)
        for value in values if number % 3 == 1 else ():
            found[rng.integers(0, HEIGHT, pixels), rng.integers(0, WIDTH, pixels)] = value
        return found

    return made


@pytest.mark.parametrize(
    ("values", "suffix", "options"),
    [
        (lambda i: stripes(0, 255), ".jpg", {"quality": 40}),
        (lambda i: stripes(0, 255, 0), ".jpg", {"quality": 75}),
        (stray(3, 250), ".png", {}),
        (stray(254), ".png", {}),
        (stray(128), ".png", {}),
        (lambda i: Image.fromarray(stripes(0, 255)).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BILINEAR), ".png", {}),
        (lambda i: Image.fromarray(stray(3, 250)(i)).convert("RGB"), ".png", {}),
    ],
)
def test_noise_in_black_and_white_masks(tmp_path: Path, values: Any, suffix: str, options: Any) -> None:
    data, notes = loaded(maps(tmp_path / "d", values, suffix, **options))
    assert data.class_names == ("background", "class 1")
    found = np.stack([np.asarray(Image.fromarray(data.splits["train"].targets[i]).resize((WIDTH, HEIGHT), 0)) for i in range(3)])
    assert set(np.unique(found)) == {0, 1}
    assert "cut at 128" in notes
    assert (found[:, :, 2] == 0).all()
    assert (found[:, :, 20] == 1).all()


@pytest.mark.parametrize(
    ("values", "names", "ignored"),
    [
        (stray(1, 2), ("background", "class 1", "class 2"), True),
        (lambda i: stripes(0, 128, 255), ("background", "class 128"), True),
        (lambda i: stripes(0, 100, 200), ("background", "class 100", "class 200"), False),
        (lambda i: stripes(0, 1, 2), ("background", "class 1", "class 2"), False),
        (lambda i: stripes(0, 7, 255, 255), ("background", "class 7"), True),
    ],
)
def test_classes_are_no_noise(tmp_path: Path, values: Any, names: tuple[str, ...], ignored: bool) -> None:
    data, notes = loaded(maps(tmp_path / "d", values))
    assert data.class_names == names
    assert ("255 in masks is taken for pixels to be ignored" in notes) == ignored


def test_jpeg_masks_of_several_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in 3 groups"):
        load_images(maps(tmp_path / "a", lambda i: stripes(0, 128, 255), ".jpg"))
    data, notes = loaded(maps(tmp_path / "b", lambda i: stripes(0, 128, 255), ".jpg", {"0": "sky", "128": "road", "255": "car"}))
    assert data.class_names == ("sky", "road", "car")
    assert "nearest" in notes
    first = data.splits["train"].targets[0]
    assert first[5, 3] == 0
    assert first[5, 16] == 1
    assert first[5, 29] == 2
    with pytest.raises(DataError, match="16 apart"):
        load_images(maps(tmp_path / "c", lambda i: stripes(0, 60, 120), ".jpg", ["sky", "road", "car"]))


@pytest.mark.parametrize(
    ("names", "class_names"),
    [
        ({"0": "sky", "1": "road", "255": "car"}, ("sky", "road", "car")),
        ({"car": 255, "sky": 0, "road": 1}, ("sky", "road", "car")),
        ({"0": "sky", "1": "road", "7": "never", "255": "car"}, ("sky", "road", "never", "car")),
        ({"0": "sky", "1": "sky", "255": "car"}, ("sky", "car")),
    ],
)
def test_values_that_a_file_names_are_kept(tmp_path: Path, names: Any, class_names: tuple[str, ...]) -> None:
    data, notes = loaded(maps(tmp_path / "d", lambda i: stripes(0, 1, 255), names=names))
    assert data.class_names == class_names
    first = data.splits["train"].targets[0]
    assert class_names[first[5, 3]] == "sky"
    assert class_names[first[5, 29]] == "car"
    assert ("in no mask and keep their place in the order: never" in notes) == ("never" in class_names)


def test_colours_keep_the_order_of_the_file(tmp_path: Path) -> None:
    def coloured(number: int) -> np.ndarray:
        return np.stack([stripes(200, 0), stripes(10, 0), stripes(0, 90)], axis=-1)

    data, _ = loaded(maps(tmp_path / "a", coloured, names={"red": [200, 10, 0], "pink": [255, 0, 255], "blue": [0, 0, 90]}))
    assert data.class_names == ("red", "pink", "blue")
    with pytest.raises(DataError, match=r"masks hold #c80a00, which classes\.json does not name"):
        load_images(maps(tmp_path / "b", coloured, names={"black": [0, 0, 0], "blue": [0, 0, 90]}))


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no name"):
        load_images(maps(tmp_path / "d", lambda i: stripes(0, 1), names={"0": {"name": "sky"}, "1": None}))


def test_floating_point_masks(tmp_path: Path) -> None:
    file = tmp_path / "m.tif"
    Image.fromarray(stripes(0, 3).astype(np.float32)).save(file)
    assert codes_in(file) == {0, 3}
    Image.fromarray(stripes(0, 3).astype(np.float32) + 0.5).save(file)
    with pytest.raises(DataError, match="no class numbers"):
        codes_in(file)
