"""Difficult objects and crowds from the file to the batch: read, counted apart, tiled, moved with their images, never pasted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from planish.artifact import InputSpec
from planish.data import load_images, tile_images
from planish.data.augmentation.targets import augment_targets
from planish.data.targets.geometry import ObjectBatch
from planish.data.targets.maps import RasterizedLabelMaps
from planish.data.targets.objects import Objects
from planish.data.targets.rasterise import object_targets
from planish.progress import collecting_notes

HEIGHT, WIDTH = 120, 160


def described(name: str, difficult: str, box: tuple[int, ...]) -> str:
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{difficult}<bndbox>{sides}</bndbox></object>"


def voc_folder(folder: Path) -> Path:
    """Each image has a dog, and every second one a difficult cat as well; one says neither."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"JPEGImages/{i:02d}.png")
        dog = described("dog", "<difficult>0</difficult>", (11, 11, 60, 60))
        cat = described("cat", "<difficult>1</difficult>", (81, 41, 150, 110))
        plain = described("cat", "", (11, 11, 60, 60)) if i == 7 else ""
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (folder / f"Annotations/{i:02d}.xml").write_text(f"<annotation>{size}{dog}{cat * (i % 2)}{plain}</annotation>")
    return folder


def test_vocs_difficult_is_read_told_and_not_counted(tmp_path: Path) -> None:
    with collecting_notes() as notes:
        found = load_images(voc_folder(tmp_path / "v"), cache_dir=tmp_path / "cache")
    every = [one for name in ("train", "validation", "test") for one in found.splits[name].targets]  # type: ignore[index]
    assert sum(int(one.ignored.sum()) for one in every) == 4
    assert {found.class_names[label] for one in every for label in one.labels[one.ignored]} == {"cat"}
    counts = [found.report.counts[name] for name in ("train", "validation", "test")]  # type: ignore[index]
    assert {name: sum(each[name] for each in counts) for name in ("cat", "dog")} == {"cat": 1, "dog": 8}
    assert any("4 annotations: marked as difficult" in text for text in notes)


@pytest.mark.parametrize("flag", ["iscrowd", "ignore", "difficult"])
def test_coco_files_flag_them_in_several_ways(tmp_path: Path, flag: str) -> None:
    (tmp_path / "c").mkdir()
    listed, annotations = [], []
    for i in range(6):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / f"c/{i}.png")
        listed.append({"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
        annotations += [{"id": 2 * i + k, "image_id": i, "category_id": 1, "bbox": [10 + 70 * k, 10, 50, 50]} for k in (0, 1)]
        annotations[-1][flag] = 1
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "c/annotations.json").write_text(json.dumps(content))
    one = load_images(tmp_path / "c", cache_dir=tmp_path / "cache").splits["train"].targets[0]
    assert one.ignored.tolist() == [False, True]
    assert one.crowd.tolist() == [False, flag == "iscrowd"]


def test_tiles_keep_the_mark(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path / "v")
    tile_images(folder, tmp_path / "tiles", size=120, overlap=0.25, cache_dir=tmp_path / "cache")
    tiles = load_images(tmp_path / "tiles", cache_dir=tmp_path / "cache")
    every = [one for name in ("train", "validation", "test") for one in tiles.splits[name].targets]  # type: ignore[index]
    cat, dog = (tiles.class_names.index(name) for name in ("cat", "dog"))
    assert sum(int((one.labels[one.difficult] == cat).sum()) for one in every if one.difficult is not None) >= 4
    assert not any((one.labels[one.difficult] == dog).any() for one in every if one.difficult is not None)


def some(*, masks: bool = False) -> Objects:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9], [0.6, 0.1, 0.8, 0.3]], np.float32)
    encoded = None
    if masks:
        from pycocotools import mask as coco

        painted = np.zeros((3, 100, 100), np.uint8)
        for one, (left, top, right, bottom) in zip(painted, (boxes * 100).round().astype(int), strict=True):
            one[top:bottom, left:right] = 1
        encoded = tuple(coco.encode(np.asfortranarray(one)) for one in painted)
    flags = [np.array(values, bool) for values in ([0, 0, 1], [0, 1, 0])]
    return Objects(boxes, np.arange(3), 100, 100, flags[0], np.full(3, 100.0), encoded, flags[1])


def test_they_are_apart_in_a_batch_and_unknown_in_label_maps() -> None:
    [target] = object_targets([some()])
    assert target["labels"].tolist() == [0]
    assert target["ignored_labels"].tolist() == [1, 2]
    assert torch.equal(target["ignored_boxes"], torch.from_numpy(some().boxes[1:]))
    labels = RasterizedLabelMaps([some(masks=True)])[0]
    assert (labels[15, 15], labels[70, 70], labels[20, 70], labels[95, 5]) == (1, 255, 255, 0)
    assert RasterizedLabelMaps([some(masks=True)]).counts(("ground", "a", "b", "c")) == {"a": 1, "b": 0, "c": 0}


@pytest.mark.parametrize("masks", [False, True])
def test_a_batch_is_taken_apart_as_it_was_put_together(masks: bool) -> None:
    targets = object_targets([some(masks=masks)] * 2, (50, 50) if masks else None)
    targets.insert(1, {name: values for name, values in targets[0].items() if not name.startswith("ignored")})
    again = ObjectBatch.of(targets).split()
    assert [sorted(one) for one in again] == [sorted(one) for one in targets]
    for one, other in zip(again, targets, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_ignored_boxes_move_with_what_they_are_around(masks: bool, mosaic: float) -> None:
    """The ignored square is the only bright one: wherever it is seen an ignored box is around it, and no object."""
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 50:90, 50:90] = 250
    image[:, 10:40, 10:40] = 100
    targets = object_targets([some(masks=masks)] * 4, (100, 100) if masks else None)
    change = augment_targets(InputSpec(3, 100, 100), "light", mosaic=mosaic, copy_paste=0.5 * masks)
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(10):
        images, moved = change(image.expand(4, -1, -1, -1).contiguous(), targets, generator)
        for pixels, target in zip(images[:, 0], moved, strict=True):
            bright = (pixels > 175).nonzero().float()
            covered = torch.zeros(len(bright), dtype=torch.bool)
            labels = target.get("ignored_labels", torch.zeros(0))
            for box in target.get("ignored_boxes", torch.zeros(0, 4))[labels == 1] * 100:
                covered |= ((bright[:, [1, 0]] + 1 >= box[:2]) & (bright[:, [1, 0]] <= box[2:])).all(1)
            assert covered.all()
            assert set(target["labels"].tolist()) <= {0}, "and none is learned, nor pasted elsewhere as an object"
            seen += len(bright) > 0
    assert seen > 10
