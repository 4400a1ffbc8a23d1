"""The same scenes in COCO's JSON, in YOLO's text files and as mask images are the same objects and maps; what makes no sense is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from planish.data import load_images, task_in
from planish.data.annotations.map_codes import _given
from planish.data.annotations.masks import masked_images, read_object_masks
from planish.data.images import ImageData
from planish.data.targets.objects import Objects
from planish.errors import DataError
from planish.progress import collecting_notes

SIDE = 64


@pytest.fixture(scope="module")
def scenes() -> ImageData:
    return load_images("fashion-scenes-20", task="instance")


def every(scenes: ImageData) -> Iterator[tuple[str, Path, Objects]]:
    """Some images of each split, with their objects."""
    for split in ("train", "validation", "test"):
        part = scenes.splits[split]
        for path, objects in list(zip(part.paths, part.targets, strict=True))[:8]:
            yield {"validation": "val"}.get(split, split), path, objects


def written(scenes: ImageData, folder: Path, write: Callable[[str, str, Objects], None], images: str = "images/{split}") -> Path:
    for split, path, objects in every(scenes):
        place = folder / images.format(split=split)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / path.name)
        write(split, path.stem, objects)
    return folder


def same(found: ImageData, scenes: ImageData, masks: bool) -> None:
    """Each image has the objects that it has in COCO's JSON, whatever their order."""
    wanted = {f"{split}/{path.name}": objects for split, path, objects in every(scenes)}
    seen = {}
    for split in ("train", "validation", "test"):
        word = {"validation": "val"}.get(split, split)
        seen |= {f"{word}/{path.name}": one for path, one in zip(found.splits[split].paths, found.splits[split].targets, strict=True)}
    assert seen.keys() == wanted.keys()
    for key, objects in wanted.items():
        ours = [(found.class_names[label], *np.round(box, 3)) for label, box in zip(seen[key].labels, seen[key].boxes, strict=True)]
        theirs = [(scenes.class_names[label], *np.round(box, 3)) for label, box in zip(objects.labels, objects.boxes, strict=True)]
        first, second = np.argsort([str(o[1:]) for o in ours]), np.argsort([str(t[1:]) for t in theirs])
        assert [ours[i][0] for i in first] == [theirs[i][0] for i in second], key
        np.testing.assert_allclose([ours[i][1:] for i in first], [theirs[i][1:] for i in second], atol=2e-3)
        if masks:
            for i, j in zip(first, second, strict=True):
                assert (coco.decode(seen[key].masks[i]) == coco.decode(objects.masks[j])).all()


def yolo_lines(objects: Objects) -> str:
    lines = []
    for label, (left, top, right, bottom) in zip(objects.labels, objects.boxes.astype(float), strict=True):
        lines.append(f"{label} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}")
    return "\n".join(lines)


def write_yolo(scenes: ImageData, folder: Path) -> Path:
    def write(split: str, stem: str, objects: Objects) -> None:
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split / f"{stem}.txt").write_text(yolo_lines(objects))

    written(scenes, folder, write)
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(scenes.class_names))
    (folder / "data.yaml").write_text(f"path: ../datasets/mine\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}\n")
    return folder


def test_yolo_is_the_same_as_coco(scenes: ImageData, tmp_path: Path) -> None:
    folder = write_yolo(scenes, tmp_path / "yolo")
    assert task_in(folder) == "detection"
    same(load_images(folder), scenes, masks=False)


def test_yolo_without_a_yaml_file(scenes: ImageData, tmp_path: Path) -> None:
    folder = write_yolo(scenes, tmp_path / "yolo")
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("\n".join(scenes.class_names))
    same(load_images(folder), scenes, masks=False)
    (folder / "classes.txt").unlink()
    assert all(name.startswith("class ") for name in load_images(folder).class_names)


def small_yolo(folder: Path, first: str, **more: str) -> Path:
    """Eight noisy images, each with one object; the first has other lines."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(first if i == 0 else f"{i % 2} 0.5 0.5 0.2 0.4\n")
    for name, text in more.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_texts_beside_images_negatives_and_polygons(tmp_path: Path) -> None:
    data = load_images(small_yolo(tmp_path / "a", ""))
    targets = {key: objects for part in data.splits.values() for key, objects in zip(part.keys, part.targets, strict=True)}
    assert len(targets["0.png"]) == 0
    np.testing.assert_allclose(targets["1.png"].boxes, [[0.4, 0.3, 0.6, 0.7]], atol=1e-6)
    folder = small_yolo(tmp_path / "b", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    for i in range(1, 8):
        (folder / f"{i}.txt").write_text("1 0.2 0.2 0.8 0.2 0.5 0.9\n")
    data = load_images(folder)
    assert data.task == "instance"
    one = next(o for part in data.splits.values() for k, o in zip(part.keys, part.targets, strict=True) if k == "0.png")
    np.testing.assert_allclose(one.boxes, [[0.1, 0.1, 0.5, 0.5]], atol=1e-6)
    assert coco.decode(one.masks[0]).sum() == 24 * 16


def test_copies_with_other_boxes_are_label_conflicts(tmp_path: Path) -> None:
    folder = small_yolo(tmp_path / "a", "")
    first, second = "0 0.5 0.5 0.2 0.4\n", "1 0.3 0.3 0.2 0.2\n"
    for i in range(8):
        (folder / f"{i}.txt").write_text(first + second)
    for i, text in enumerate((second + first, first + "1 0.3 0.3 0.2 0.3\n")):
        shutil.copy(folder / f"{i}.png", folder / f"copy {i}.png")
        (folder / f"copy {i}.txt").write_text(text)
    assert load_images(folder).report.label_conflicts == [["1.png", "copy 1.png"]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7 0.5 0.5 0.1 0.1", "line 1 is of class '7'"),
        ("cat 0.5 0.5 0.1 0.1", "line 1 is of class 'cat'"),
        ("0 30 20 10 10", "shares of the sides, not pixels"),
        ("0 0.5 0.5 0.1", "has 3 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 5 numbers"),
        ("0 0.5 0.5 zero 0.1", "no numbers"),
        ("0 0.5 0.5 nan 0.1", "shares of the sides"),
        ("0 0.5 0.5 0 0.1", "no area"),
    ],
)
def test_lines_that_make_no_sense_are_named_or_left_out(tmp_path: Path, line: str, said: str) -> None:
    folder = small_yolo(tmp_path / "a", line, classes_txt="cat\ndog")
    with pytest.raises(DataError, match=r"1 annotations make no sense: 0\.png") as caught:
        load_images(folder)
    assert said in str(caught.value)
    assert sum(len(o) for name in ("train", "validation", "test") for o in load_images(folder, skip_bad=True).splits[name].targets) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: ../elsewhere\nval: .\nnames: [a, b]", "not below"),
        ("train: /etc\nval: .\nnames: [a, b]", "not below"),
        ("train: train.txt\nval: val.txt\nnames: [a, b]", "an image is of one split"),
        ("train: [.\n", "cannot be read"),
    ],
)
def test_a_yaml_file_that_leads_elsewhere_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=said):
        load_images(small_yolo(tmp_path / "a", "", data_yaml=text, train_txt="1.png\n2.png", val_txt="2.png\n3.png"))


def test_a_yaml_file_that_validates_on_the_training_images(tmp_path: Path) -> None:
    data = load_images(small_yolo(tmp_path / "a", "", data_yaml="train: .\nval: .\nnames: {0: a, 1: b}"))
    assert data.class_names == ("a", "b")
    assert not set(data.splits["train"].keys) & set(data.splits["validation"].keys)
    assert sum(len(data.splits[name]) for name in ("train", "validation", "test")) == 8


def test_texts_beside_photos_that_are_no_boxes_are_left_alone(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        small_yolo(tmp_path / kind, "")
        for i in range(8):
            (tmp_path / kind / f"{i}.txt").write_text(f"a photo of a {kind}, number {i}")
    assert task_in(tmp_path) == "classification"


def painted(objects: Objects) -> np.ndarray:
    """The label map, by hand: large objects first."""
    found = np.zeros((objects.height, objects.width), np.uint8)
    for i in np.argsort(-objects.areas, kind="stable"):
        found[coco.decode(objects.masks[i]) > 0] = objects.labels[i] + 1
    return found


@pytest.mark.parametrize("kind", ["indexed", "grey", "colour", "rgb of values"])
def test_label_maps_are_the_same_as_coco(scenes: ImageData, tmp_path: Path, kind: str) -> None:
    names = ["background", *scenes.class_names]
    colours = [(0, 0, 0), *((40 + 17 * i, 255 - 23 * i, 7 * i) for i in range(len(scenes.class_names)))]

    def write(split: str, stem: str, objects: Objects) -> None:
        (tmp_path / "masks" / split).mkdir(parents=True, exist_ok=True)
        values = painted(objects)
        image = Image.fromarray(values)
        if kind == "indexed":
            image.putpalette([channel for colour in colours for channel in colour])
        elif kind == "colour":
            image = Image.fromarray(np.asarray(colours, np.uint8)[values])
        elif kind != "grey":
            image = Image.fromarray(np.repeat(values[..., None], 3, 2))
        image.save(tmp_path / "masks" / split / f"{stem}.png")

    written(scenes, tmp_path, write)
    if kind == "colour":
        (tmp_path / "classes.csv").write_text(
            "name,r,g,b\n" + "".join(f"{n},{r},{g},{b}\n" for n, (r, g, b) in zip(names, colours, strict=True))
        )
    else:
        (tmp_path / "classes.txt").write_text("\n".join(names))
    data = load_images(tmp_path)
    assert data.task == "semantic"
    wanted = {f"images/{split}/{path.name}": painted(objects) for split, path, objects in every(scenes)}
    number = {name: i for i, name in enumerate(data.class_names)}
    table = np.array([number.get(name, 255) for name in names], np.uint8)
    for part in ("train", "validation", "test"):
        split = data.splits[part]
        assert len(split.targets.chosen([1, 0])) == 2
        for key, found in zip(split.keys, (split.targets[i] for i in range(len(split))), strict=True):
            assert (found == table[wanted[key]]).all()
    assert sum(data.report.counts["train"].values()) > 0


def noise_with_maps(folder: Path, maps: Callable[[int], np.ndarray], names: str = "") -> Path:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "images" / f"{i}.jpg")
        Image.fromarray(maps(i)).save(folder / "masks" / f"{i}.png")
    if names:
        (folder / "classes.txt").write_text(names)
    return folder


def halves(low: int, high: int, height: int = 40, width: int = 60) -> np.ndarray:
    found = np.full((height, width), low, np.uint8)
    found[:, width // 2 :] = high
    return found


def test_values_that_nobody_names(tmp_path: Path) -> None:
    data = load_images(noise_with_maps(tmp_path / "a", lambda i: halves(0, 255)))
    assert data.class_names == ("background", "class 1")
    assert set(np.unique(data.splits["train"].targets[0])) == {0, 1}
    data = load_images(noise_with_maps(tmp_path / "b", lambda i: halves(7, 255 if i % 2 else 9)))
    assert data.class_names == ("class 7", "class 9")
    seen = {
        value
        for name in ("train", "validation", "test")
        for i in range(len(data.splits[name]))
        for value in np.unique(data.splits[name].targets[i])
    }
    assert seen == {0, 1, 255}, "255 is ignored where there are other classes"


def test_maps_with_one_of_the_classes_of_a_model(tmp_path: Path) -> None:
    folder = noise_with_maps(tmp_path / "a", lambda i: halves(0, 0))
    assert load_images(folder, class_names=["background", "cat"]).class_names == ("background", "cat")


def test_copies_with_other_maps_are_label_conflicts(tmp_path: Path) -> None:
    folder = noise_with_maps(tmp_path / "a", lambda i: halves(0, 1) if i else halves(1, 0))
    for first in (0, 2):
        shutil.copy(folder / f"images/{first}.jpg", folder / f"images/{first + 1}.jpg")
    assert load_images(folder).report.label_conflicts == [["images/0.jpg", "images/1.jpg"]]


@pytest.mark.parametrize(
    ("maps", "names", "said"),
    [
        (lambda i: halves(0, 0), "", "masks of 1 classes"),
        (lambda i: halves(255, 255), "", r"masks of 0 classes\. there are 1 to 255"),
        (lambda i: halves(0, 3), "sky\nroad", "does not name"),
        (lambda i: halves(0, 1, 60, 40), "", "its mask 60 x 40"),
        (lambda i: np.random.default_rng(i).integers(0, 256, (40, 60, 3), np.uint8), "", "colours"),
    ],
)
def test_maps_that_cannot_be_used_are_refused(tmp_path: Path, maps: Callable[[int], np.ndarray], names: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_images(noise_with_maps(tmp_path / "a", maps, names))


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    folder = noise_with_maps(tmp_path / "a", lambda i: halves(0, 1))
    (folder / "masks" / "3.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"3\.png cannot be read"):
        load_images(folder)


@pytest.mark.parametrize("kind", ["folders", "numbered", "one each"])
def test_masks_of_objects_are_the_same_as_coco(scenes: ImageData, tmp_path: Path, kind: str) -> None:
    def write(split: str, stem: str, objects: Objects) -> None:
        numbers = np.zeros((objects.height, objects.width), np.uint8)
        labels = np.zeros_like(numbers)
        for i, (label, mask) in enumerate(zip(objects.labels, objects.masks, strict=True)):
            inside = coco.decode(mask) > 0
            numbers[inside], labels[inside] = i + 1, label + 1
            name = scenes.class_names[label]
            single = {"folders": f"masks/{split}/{stem}/{name}/{i}.png", "one each": f"masks/{split}/{stem}/{name} {i}.png"}.get(kind)
            if single:
                (tmp_path / single).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.uint8(255) * inside).save(tmp_path / single)
        if kind == "numbered":
            for folder, values in (("instances", numbers), ("masks", labels)):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(tmp_path / folder / split / f"{stem}.png")

    written(scenes, tmp_path, write)
    if kind == "numbered":
        (tmp_path / "classes.json").write_text(json.dumps(["background", *scenes.class_names]))
        with pytest.raises(DataError, match="--task semantic"):
            task_in(tmp_path)
    found = load_images(tmp_path, task="instance")
    same(found, scenes, masks=True)


def areas(folder: Path, name: str, mask: Image.Image) -> list[float | None]:
    """The sorted areas of the objects that a mask file gives an image."""
    for file, image in ((folder / "images/a.png", Image.new("RGB", mask.size)), (folder / name, mask)):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    ((one,), _) = read_object_masks(folder, masked_images(folder))
    return sorted(o.area for o in one.objects)


@pytest.mark.parametrize(("mode", "suffix"), [("1", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("L", "jpg"), ("RGB", "jpg")])
def test_a_mask_of_one_object_in_every_mode(tmp_path: Path, mode: str, suffix: str) -> None:
    down, across = np.mgrid[:80, :80] - 40
    disc = down**2 + across**2 < 300
    (area,) = areas(tmp_path, f"masks/a/cat 1.{suffix}", Image.fromarray(np.uint8(255) * disc).convert(mode))
    assert area == pytest.approx(disc.sum(), rel=0.03 if suffix == "jpg" else 0)


def test_which_values_of_an_instance_map_are_objects(tmp_path: Path) -> None:
    ids = np.repeat([[0, 0, 0, 1, 255]], 10, axis=0)
    white = np.asarray([(0, 0, 0)] * 3 + [(9, 200, 0), (255, 255, 255)], np.uint8)[None].repeat(10, axis=0)
    cases = {
        "8-bit": (Image.fromarray(ids.astype(np.uint8)), [10]),
        "16-bit": (Image.fromarray(ids.astype(np.uint16)), [10, 10]),
        "colours": (Image.fromarray(white), [10, 10]),
        "binary": (Image.fromarray(ids > 0), [20]),
    }
    for name, (image, wanted) in cases.items():
        with collecting_notes() as notes:
            assert areas(tmp_path / name, "instances/a.png", image) == wanted, name
        assert any("the value 255 in 1 8-bit instance maps" in text for text in notes) == (name == "8-bit"), name


def test_a_network_learns_from_label_maps(scenes: ImageData, tmp_path: Path) -> None:
    from planish.commands import evaluate, train

    def write(split: str, stem: str, objects: Objects) -> None:
        (tmp_path / "data" / "masks" / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.minimum(painted(objects), 1)).save(tmp_path / "data" / "masks" / split / f"{stem}.png")

    folder = written(scenes, tmp_path / "data", write)
    trained: Any = train(folder, model="resnet8", out=tmp_path / "m", changes=["epochs=1", f"image_size={SIDE}"])
    assert evaluate(tmp_path / "m", folder)["miou"].value == pytest.approx(trained.metrics["miou"].value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("id,name\n0,background\n1,road\n", {0: "background", 1: "road"}),
        ("name;value\nbackground;0\nroad;1\n", {0: "background", 1: "road"}),
        ("id,name,r,g,b\n0,background,0,0,0\n7,road,255,0,0\n", {0: "background", 0xFF0000: "road"}),
        ("name,value,what,of\nroad,1,grey,all\n", {1: "road"}),
    ],
)
def test_tables_of_class_names(tmp_path: Path, text: str, wanted: dict[int, str]) -> None:
    (tmp_path / "classes.csv").write_text(text)
    assert _given(tmp_path) == (wanted, "classes.csv")


@pytest.mark.parametrize("text", ["label\nroad\n", "name,value\nroad,one\n"])
def test_a_table_without_values_is_not_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(DataError, match="cannot be understood"):
        _given(tmp_path)


def test_indexed_masks_with_palettes_of_their_own_are_refused(tmp_path: Path) -> None:
    """As programs that make files smaller write them: value 1 is red in one file and green in another, and was one class."""
    values = np.zeros((40, 60), np.uint8)
    values[:9], values[20:30] = 1, 2
    folder = noise_with_maps(tmp_path / "d", lambda i: values)
    for i, file in enumerate(sorted((folder / "masks").iterdir())):
        mask = Image.fromarray(values)
        mask.putpalette([0, 0, 0, *([255, 0, 0, 0, 255, 0] if i % 2 else [0, 255, 0, 255, 0, 0])])
        mask.save(file)
    with pytest.raises(DataError, match=r"the value 1 is #00ff00 in .* and #ff0000"):
        load_images(folder)
    (folder / "classes.txt").write_text("ground\nroad\nroof\n")
    assert load_images(folder).class_names == ("ground", "road", "roof")


def test_masks_that_are_added_after_a_first_attempt_are_found(tmp_path: Path) -> None:
    folder = noise_with_maps(tmp_path / "d", lambda i: np.zeros((40, 60), np.uint8))
    (folder / "masks").rename(folder / "later")
    assert not masked_images(folder)
    (folder / "later").rename(folder / "masks")
    assert len(masked_images(folder)) == 8


def test_the_folder_of_single_masks_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "one" / "images").mkdir(parents=True)
    (tmp_path / "one" / "Masks").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "one" / "images" / "one.png")
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "one" / "Masks" / "3.png")
    assert read_object_masks(tmp_path, masked_images(tmp_path))[1] == ("object",)


def test_a_class_in_no_mask_may_be_lacking_in_the_model(tmp_path: Path) -> None:
    folder = noise_with_maps(tmp_path / "d", lambda i: np.eye(40, 60, dtype=np.uint8), "ground\nroad\nroof\n")
    assert load_images(folder, class_names=("road", "ground")).class_names == ("road", "ground")
    with pytest.raises(DataError, match="the model lacks 1 of the classes"):
        load_images(folder, class_names=("ground", "roof"))
