"""Archives, WebDataset shards and Parquet files hold the same images and labels as the folders they were made of."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from planish.data.images import ImageData, load_images
from planish.data.sources.reading import read_source
from planish.errors import DataError
from planish.testing import write_shapes

Load = Callable[..., ImageData]
SHAPES = ("cross", "disc", "square")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return lambda source, **options: load_images(source, cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", per_class=10)


def contents(data: ImageData) -> dict[bytes, tuple[str, str]]:
    """Class and split of each image, by its bytes; calibration is part of train."""
    found = {}
    for name in ("train", "validation", "test"):
        split = data.splits[name]
        found |= {split.file_bytes(i): (data.class_names[split.targets[i]], name) for i in range(len(split))}
    return found


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def members_of(folder: Path, below: str = "") -> dict[str, bytes]:
    return {below + file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("below", ["", "data/shapes/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "tar.xz"])
def test_an_archive_is_its_folder(tmp_path: Path, folder: Path, load: Load, kind: str, below: str) -> None:
    file, members = tmp_path / f"photos.{kind}", members_of(folder, below)
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("/", "\\") if below else name, content)  # as some Windows programs write
            archive.writestr("__MACOSX/._x", b"")
    else:
        write_tar(file, members, {"tar": "w", "tar.xz": "w:xz"}.get(kind, "w:gz"))
    data = load(file)
    assert data.name == "photos" if kind in ("zip", "tar", "tgz") else "photos.tar"
    assert contents(data) == contents(load(folder))
    assert data.report.inventory.images_used == data.report.inventory.images_found == 30


def test_it_is_unpacked_once_and_again_when_it_changes(tmp_path: Path, folder: Path, load: Load) -> None:
    file = write_tar(tmp_path / "photos.tar", members_of(folder))
    load(file)
    (unpacked,) = (tmp_path / "cache" / "unpacked").iterdir()
    before = unpacked.stat().st_mtime_ns
    load(file)
    assert [entry.stat().st_mtime_ns for entry in (tmp_path / "cache" / "unpacked").iterdir()] == [before]
    write_tar(file, members_of(folder) | {"disc/new.png": png(5)})
    assert load(file).report.images == 31


def test_annotations_in_an_archive(tmp_path: Path, load: Load) -> None:
    boxes = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    members = {}
    for number in range(12):
        members[f"images/{number}.png"] = png(number)
        boxes["images"].append({"id": number, "file_name": f"{number}.png", "width": 24, "height": 20})
        boxes["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [2, 3, 8, 9], "area": 72, "iscrowd": 0})
    members["annotations.json"] = json.dumps(boxes).encode()
    data = load(write_tar(tmp_path / "cells.tar.gz", members, "w:gz"))
    assert data.task == "detection"
    assert sum(len(data.splits[name]) for name in ("train", "validation", "test")) == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [("../outside.png", "names of entries"), ("/etc/outside.png", "names of entries"), ("a/../../x.png", "names of entries")],
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, load: Load, kind: str, name: str, message: str) -> None:
    file = tmp_path / "deep" / f"bad.{kind}"
    file.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, png(0))
    else:
        write_tar(file, {name: png(0)})
    with pytest.raises(DataError, match=message):
        load(file)
    assert not list(tmp_path.rglob("outside.png"))
    assert not list(tmp_path.rglob("x.png"))


def test_links_of_an_archive_are_not_followed(tmp_path: Path, folder: Path, load: Load) -> None:
    (tmp_path / "secret.png").write_bytes(png(99))
    file = write_tar(tmp_path / "photos.tar", members_of(folder))
    with tarfile.open(file, "a") as archive:
        entry = tarfile.TarInfo("disc/link.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        archive.addfile(entry)
    data = load(file)
    assert data.report.images == 30
    assert [(one.reason, one.count) for one in data.report.inventory.left_out] == [("links of an archive", 1)]


def test_damaged_and_encrypted_archives(tmp_path: Path, folder: Path, load: Load) -> None:
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")):
        file = write_tar(tmp_path / f"cut.{kind}", members_of(folder), mode)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match="cannot be read"):
            load(file)
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(DataError, match="not a zip file"):
        load(tmp_path / "empty.zip")
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("disc/1.png", png(1))
    content = bytearray((tmp_path / "locked.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load(tmp_path / "locked.zip")
    assert not list((tmp_path / "cache" / "unpacked").iterdir())
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match="unpack it and give the folder"):
        load(tmp_path / "x.rar")


@pytest.mark.parametrize("field", ["cls", "json"])
def test_shards(tmp_path: Path, load: Load, field: str) -> None:
    expected = {}
    for place, (split, count) in enumerate((("train", 24), ("val", 6), ("test", 6))):
        for shard in range(2):
            members = {}
            for number in range(count // 2):
                content = png(1000 * place + 100 * shard + number)
                label = number % 3
                members[f"sub.dir/{number:04d}.png"] = content
                members[f"sub.dir/{number:04d}.{field}"] = (
                    str(label).encode() if field == "cls" else json.dumps({"label": label, "width": 24}).encode()
                )
                members[f"sub.dir/{number:04d}.txt"] = b"a caption"
                expected[content] = (SHAPES[label], "validation" if split == "val" else split)
            write_tar(tmp_path / "shards" / f"shapes-{split}-{shard:04d}.tar", members)
    (tmp_path / "shards" / "classnames.txt").write_text("\n".join(SHAPES) + "\n")
    data = load(tmp_path / "shards")
    assert data.class_names == SHAPES
    assert contents(data) == expected
    assert data.given == ("train", "validation", "test")


def test_a_shard_alone_and_samples_without_labels(tmp_path: Path, load: Load) -> None:
    members = {}
    for number in range(30):
        members[f"{number}.jpg"] = png(number)  # what it is decides, not its name
        if number % 10:
            members[f"{number}.cls"] = f"kind {number % 3}\n".encode()
    data = load(write_tar(tmp_path / "photos.tar", members))
    assert data.class_names == ("kind 0", "kind 1", "kind 2")
    assert data.report.images == 27
    assert [(one.what, one.reason, one.count) for one in data.report.inventory.left_out] == [("images", "no label", 3)]
    two = {"1.png": png(1), "1.webp": png(2), "1.cls": b"a"}
    with pytest.raises(DataError, match=r"sample '1' has 2 images: png, webp"):
        load(write_tar(tmp_path / "two.tar", two))


def test_shards_without_any_label_are_unlabelled_images(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / "shards" / f"{shard}.tar", {f"{n}.png": png(10 * shard + n) for n in range(5)})
    name, content = read_source(tmp_path / "shards", tmp_path / "cache", None)
    assert (name, content.how, len(content.images)) == ("shards", "images without labels", 10)


def hub_table(labels: list[int | None], names: tuple[str, ...] = SHAPES, first: int = 0, **more: list[int]) -> pa.Table:
    """As ``datasets`` writes it."""
    images = [{"bytes": png(first + number), "path": f"{number}.png"} for number in range(len(labels))]
    features = {"img": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    features |= {key: {"names": ["x", "y"], "_type": "ClassLabel"} for key in more}
    table = pa.table({"img": images, "label": labels, **more})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_parquet_as_on_the_hub(tmp_path: Path, load: Load) -> None:
    (tmp_path / "garments" / "data").mkdir(parents=True)
    expected = {}
    for split, first, count in (("train", 0, 30), ("validation", 100, 9), ("test", 200, 9)):
        labels = [number % 3 for number in range(count)]
        if split == "train":
            labels[4] = -1
        half = count // 2
        for part, some in enumerate((labels[:half], labels[half:])):
            table = hub_table(some, first=first + part * half)
            pq.write_table(table, tmp_path / "garments" / "data" / f"{split}-{part:05d}-of-00002.parquet", row_group_size=4)
        expected |= {png(first + i): (SHAPES[label], split) for i, label in enumerate(labels) if label >= 0}
    (tmp_path / "garments" / "README.md").write_text("a card")
    data = load(tmp_path / "garments")
    assert contents(data) == expected
    assert [(one.what, one.reason, one.count) for one in data.report.inventory.left_out if one.what == "images"] == [
        ("images", "no label", 1)
    ]


def test_parquet_without_the_metadata_of_the_hub(tmp_path: Path, load: Load) -> None:
    table = pa.table({"jpg": [png(number) for number in range(30)], "category": ["a", "b", "c"] * 10, "text": ["t"] * 30})
    pq.write_table(table, tmp_path / "photos.parquet")
    data = load(tmp_path / "photos.parquet")
    assert data.class_names == ("a", "b", "c")
    assert data.report.images == 30


@pytest.mark.parametrize("form", ["mapping", "list"])
def test_boxes_in_parquet(tmp_path: Path, load: Load, form: str) -> None:
    category: dict[str, object] = {"names": ["cell", "platelet"], "_type": "ClassLabel"}
    features = {
        "image": {"_type": "Image"},
        "objects": {"feature": {"bbox": {"_type": "Sequence"}, "category": category}, "_type": "Sequence"},
    }
    expected = {}
    for split, count in (("train", 8), ("validation", 3), ("test", 3)):
        rows = []
        for number in range(count):
            boxes = [[float(x), 2.0, 6.0, 5.0] for x in range(number % 3)]
            kinds = [place % 2 for place in range(len(boxes))]
            rows.append({"bbox": boxes, "category": kinds})
            expected[png(100 * count + number)] = (
                split,
                [(["cell", "platelet"][kind], box) for kind, box in zip(kinds, boxes, strict=True)],
            )
        objects = rows if form == "mapping" else [
            [{"bbox": box, "category": kind} for box, kind in zip(row["bbox"], row["category"], strict=True)] for row in rows
        ]  # fmt: skip
        images = [{"bytes": png(100 * count + number), "path": None} for number in range(count)]
        table = pa.table({"image": images, "objects": objects})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (tmp_path / "cells").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "cells" / f"{split}-00000-of-00001.parquet")
    data = load(tmp_path / "cells")
    assert (data.task, data.class_names) == ("detection", ("cell", "platelet"))
    found = {}
    for name in ("train", "validation", "test"):
        split = data.splits[name]  # type: ignore[index]
        for i in range(len(split)):
            one = split.targets[i]
            boxes = one.boxes * np.array([24, 20, 24, 20])
            sides = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes.tolist()]
            found[split.file_bytes(i)] = (
                name,
                [(data.class_names[c], [round(v, 4) for v in s]) for c, s in zip(one.labels, sides, strict=True)],
            )
    assert found == expected


def test_a_damaged_image_with_boxes_in_parquet(tmp_path: Path, load: Load) -> None:
    objects = [{"bbox": [[2.0, 2.0, 6.0, 5.0]], "category": ["cell"]}] * 8
    images = [{"bytes": png(number), "path": None} for number in range(7)] + [{"bytes": b"\x89PNG damaged", "path": None}]
    pq.write_table(pa.table({"image": images, "objects": objects}), tmp_path / "cells.parquet")
    with pytest.raises(DataError, match=r"1 of 8 files are broken: .*0000007\.png"):
        load(tmp_path / "cells.parquet")
    data = load(tmp_path / "cells.parquet", skip_bad=True)
    assert sum(len(data.splits[name]) for name in ("train", "validation", "test")) == 7


def test_which_column_is_the_label(tmp_path: Path, load: Load) -> None:
    table = hub_table([0, 1, 2] * 10, coarse=[0, 1] * 15).rename_columns(["img", "fine", "coarse"])
    features = {"img": {"_type": "Image"}} | {
        name: {"names": list(names), "_type": "ClassLabel"} for name, names in {"fine": SHAPES, "coarse": ("x", "y")}.items()
    }
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "c").mkdir()
    pq.write_table(table, tmp_path / "c" / "train.parquet")
    with pytest.raises(DataError, match=r"fine, coarse.*train.parquet#fine"):
        load(tmp_path / "c")
    assert load(f"{tmp_path}/c#coarse").class_names == ("x", "y")
    assert load(f"{tmp_path}/c/train.parquet#fine").class_names == SHAPES
    with pytest.raises(DataError, match="no column 'rough'"):
        load(f"{tmp_path}/c#rough")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0]}, "no column with images"),
        ({"image": [{"bytes": None, "path": "x.png"}], "label": [0]}, "row 0 has no image"),
        ({"image": [png(1)], "objects": [[{"bbox": [1.0, 2.0, 3.0], "category": 0}]]}, "an object has a class and a bbox"),
        ({"image": [png(1)], "objects": [{"box": [1]}]}, "they have bbox"),
        ({"image": [b"x"], "label": [[1, 2]]}, "label of the type list"),
    ],
)
def test_parquet_that_is_not_read(tmp_path: Path, load: Load, columns: dict[str, list[object]], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "y.parquet")


def test_several_sets_in_one_folder(tmp_path: Path, load: Load) -> None:
    for name in ("small", "large"):
        (tmp_path / "d" / name).mkdir(parents=True)
        pq.write_table(hub_table([0, 1, 2] * 5), tmp_path / "d" / name / "train.parquet")
    with pytest.raises(DataError, match=r"large, small|small, large"):
        load(tmp_path / "d")
    assert load(tmp_path / "d" / "small").report.images == 15


def test_a_data_set_of_the_hub(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "snapshot").mkdir()
    pq.write_table(hub_table([0, 1, 2] * 10), tmp_path / "snapshot" / "train-00000-of-00001.parquet")
    asked: list[tuple[str, str, str | None]] = []

    def snapshot_download(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, repo_type, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    data = load("hf://datasets/ada/garments@v1")
    assert set(asked) == {("ada/garments", "dataset", "v1")}
    assert (data.name, data.report.images, data.class_names) == ("garments@v1", 30, SHAPES)
    assert load("hf://datasets/ada/garments#label").report.images == 30
    with pytest.raises(DataError, match="hf://datasets/OWNER/NAME"):
        load("hf://ada/garments")
