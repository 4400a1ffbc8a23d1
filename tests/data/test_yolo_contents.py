"""YOLO labels and descriptions that hold what the format does not allow, or what readers often take for something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated import IMAGES, loaded, objects, picture

from planish.data.images import load_images
from planish.errors import DataError


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
