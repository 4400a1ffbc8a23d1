"""Pascal VOC files that hold what the format does not allow, or what readers often take for something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotated import IMAGES, loaded, objects, picture

from planish.data.images import load_images
from planish.errors import DataError


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
