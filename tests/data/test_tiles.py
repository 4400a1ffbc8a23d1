"""Large images cut up and put together again; an oracle that reads painted colours stands for the model."""

import itertools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from torchvision.ops import batched_nms

from planish.artifact import InputSpec, Preprocessing
from planish.data import load_images, tile_images
from planish.data.annotations.annotated_image import AnnotatedImage
from planish.data.annotations.validation import size_of
from planish.data.preprocessing import LARGEST_PIXELS, decode, open_header
from planish.data.targets.objects import Objects
from planish.data.tiling.merge import kept, merged, predict_tiled
from planish.data.tiling.tiles import LargeImage, LargeMap, Tile, cut_objects, cut_pixels, regions_of, tiles_of, write_tiles
from planish.errors import DataError, ModelError
from planish.evaluation.evaluate import evaluate_tiled
from planish.tasks import task_for

DEEPFOREST = Path.home() / ".cache/planish/data/deepforest"
PLAIN = Preprocessing(10**9, "squash", (0.0,) * 3, (1.0,) * 3)


def objects(boxes: list[list[int]], width: int, height: int, *, masks: bool = False, crowd: list[bool] | None = None) -> Objects:
    pixels = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    encoded = None
    if masks:
        drawn = np.zeros((len(boxes), height, width), np.uint8)
        for one, (left, top, right, bottom) in zip(drawn, boxes, strict=True):
            one[top:bottom, left:right] = 1
        encoded = tuple(run_lengths.encode(np.asfortranarray(one)) for one in drawn)
    areas = (pixels[:, 2:] - pixels[:, :2]).prod(1)
    shares = (pixels / ([width, height] * 2)).astype(np.float32)
    return Objects(shares, np.arange(len(boxes)) % 3, height, width, np.array(crowd or [False] * len(boxes), dtype=bool), areas, encoded)


def painted(boxes: list[list[int]], width: int, height: int) -> np.ndarray:
    """Each box in a grey level of its own: 10, 20, ..."""
    image = np.zeros((height, width, 3), np.uint8)
    for i, (left, top, right, bottom) in enumerate(boxes):
        image[top:bottom, left:right] = 10 * (i + 1)
    return image


class Oracle:
    """Finds every grey level in a tile; the number of the level modulo 3 is the class. The less is seen, the surer it is."""

    def __init__(self, masks: bool = False) -> None:
        self.masks = masks

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        count, side = images.shape[:2]
        answer = {"boxes": np.zeros((count, 30, 4), np.float32), "scores": np.zeros((count, 30), np.float32)}
        answer |= {"labels": np.zeros((count, 30), np.int64), "masks": np.zeros((count, 30, side, side), np.float32)}
        for n, image in enumerate(images[..., 0]):
            found = []
            for level in np.unique(image[image > 0]):
                ys, xs = np.nonzero(image == level)
                found.append((1 / (1 + len(ys)), [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], level))
            for k, (score, box, level) in enumerate(sorted(found, reverse=True)):
                answer["scores"][n, k], answer["labels"][n, k] = score, (level // 10 - 1) % 3
                answer["boxes"][n, k] = np.array(box) / side
                answer["masks"][n, k] = image == level
        return answer if self.masks else {name: answer[name] for name in ("boxes", "scores", "labels")}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(12, 200), st.floats(0, 0.8))
def test_tiles_cover_the_image_and_overlap_enough(width: int, height: int, size: int, overlap: float) -> None:
    tiles = tiles_of(width, height, size, overlap)
    seen = np.zeros((height, width), bool)
    for tile in tiles:
        seen[tile.top : tile.top + size, tile.left : tile.left + size] = True
        assert tile.left == 0 or tile.left + size <= width
        assert tile.top == 0 or tile.top + size <= height
    assert seen.all()
    lefts = sorted({tile.left for tile in tiles})
    assert all(b - a <= max(1, size * (1 - overlap)) + 1 for a, b in itertools.pairwise(lefts))
    assert len(set(tiles)) == len(tiles)


def test_sizes_that_make_no_tiles() -> None:
    for size, overlap in ((0, 0.1), (10, 1.0), (10, -0.1)):
        with pytest.raises(DataError, match="below 1"):
            tiles_of(100, 100, size, overlap)


def test_pixels_of_a_tile_and_black_beyond() -> None:
    image = np.random.default_rng(0).integers(1, 256, (50, 70, 3)).astype(np.uint8)
    assert np.array_equal(cut_pixels(image, Tile(20, 10, 32)), image[10:42, 20:52])
    rim = cut_pixels(image, Tile(60, 40, 32))
    assert np.array_equal(rim[:10, :10], image[40:, 60:])
    assert rim[10:].max() == rim[:, 10:].max() == 0
    assert cut_pixels(image, Tile(0, 0, 32), (0, 0, 70, 20))[20:].max() == 0


@pytest.mark.parametrize("masks", [False, True])
def test_objects_of_a_tile_by_hand(masks: bool) -> None:
    boxes = [[5, 5, 15, 15], [25, 10, 45, 20], [28, 30, 68, 40], [60, 60, 70, 70], [0, 0, 100, 100]]
    [cut] = cut_objects(objects(boxes, 100, 80 + 20, masks=masks), [Tile(0, 0, 40)], 0.5)
    assert cut.labels.tolist() == [0, 1, 2, 1]  # the fourth is not in it
    assert cut.crowd.tolist() == [False, False, True, True]  # of the third 12 of 40 columns, of the last 16 %
    expected = np.array([[5, 5, 15, 15], [25, 10, 40, 20], [28, 30, 40, 40], [0, 0, 40, 40]])
    assert np.allclose(cut.boxes * 40, expected, atol=1e-4)
    assert np.allclose(cut.areas, [100, 150, 120, 1600])
    assert (cut.height, cut.width) == (40, 40)
    if cut.masks is not None:
        for mask, (left, top, right, bottom) in zip(cut.masks, expected, strict=True):
            drawn = np.zeros((40, 40))
            drawn[top:bottom, left:right] = 1
            assert np.array_equal(run_lengths.decode(mask), drawn)
    assert [len(some) for some in cut_objects(objects([], 100, 100, masks=masks), [Tile(0, 0, 40)] * 2)] == [0, 0]


def test_a_mask_not_its_box_decides_what_is_left() -> None:
    """An L: its upright part lies in the left tile, its long thin foot in the right one."""
    drawn = np.zeros((40, 80), np.uint8)
    drawn[0:40, 20:40] = 1
    drawn[36:40, 40:80] = 1
    encoded = run_lengths.encode(np.asfortranarray(drawn))
    one = Objects(np.array([[0.25, 0, 1, 1]], np.float32), np.array([0]), 40, 80, np.array([False]), np.array([960.0]), (encoded,))
    left, right = cut_objects(one, [Tile(0, 0, 40), Tile(40, 0, 40)], 0.4)
    assert (left.crowd.tolist(), right.crowd.tolist()) == ([False], [True])
    assert np.allclose(right.boxes[0] * 40, [0, 36, 40, 40])
    assert (left.areas[0], right.areas[0]) == (800, 160)


SPREAD = [
    [5, 5, 25, 25],
    [50, 8, 75, 28],
    [90, 60, 118, 80],
    [20, 100, 45, 125],
    [118, 118, 128, 128],
    [60, 55, 70, 90],
    [140, 30, 159, 52],
]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("size", "overlap"), [(64, 0.6), (96, 0.4), (200, 0.2)])
def test_every_object_is_found_once_and_where_it_is(size: int, overlap: float, masks: bool) -> None:
    width, height = 160, 130
    found = predict_tiled(
        Oracle(masks), painted(SPREAD, width, height), InputSpec(3, size, size), PLAIN, size=size, overlap=overlap, batch_size=3
    )
    assert {name: value.shape[:2] for name, value in found.items() if name != "boxes"} == dict.fromkeys(
        ("scores", "labels", "masks") if masks else ("scores", "labels"), (1, len(SPREAD))
    )
    rows = np.flatnonzero(found["scores"][0] > 0)
    assert (np.diff(found["scores"][0]) <= 0).all()
    boxes = (found["boxes"][0, rows] * [width, height, width, height]).round(2)
    assert sorted(boxes.tolist()) == sorted(map(list, np.array(SPREAD, dtype=float)))
    where = [SPREAD.index([int(v) for v in box]) for box in boxes]
    assert found["labels"][0, rows].tolist() == [i % 3 for i in where]
    if masks:
        for row, i in zip(rows, where, strict=True):
            assert np.array_equal(found["masks"][0, row], painted(SPREAD, width, height)[..., 0] == 10 * (i + 1))


def test_the_same_at_another_resolution_and_of_several_classes() -> None:
    """A model fed 32 pixels for tiles of 64; boxes of two classes at one place stay both."""

    def two_classes(images: np.ndarray) -> dict[str, np.ndarray]:
        answer = Oracle()(np.where(images > 5, 10, 0).astype(np.uint8))
        for name in answer:
            answer[name][:, 1] = answer[name][:, 0]
        answer["labels"][:, 1] = 2
        return answer

    found = predict_tiled(two_classes, painted([[40, 40, 60, 60]], 128, 128), InputSpec(3, 32, 32), PLAIN, size=64, overlap=0.5)
    rows = np.flatnonzero(found["scores"][0] > 0)
    assert sorted(found["labels"][0, rows].tolist()) == [0, 2]
    assert np.allclose(found["boxes"][0, rows] * 128, [40, 40, 60, 60], atol=2.1)


def test_maps_are_stitched_seamlessly() -> None:
    truth = (np.arange(130)[:, None] // 10 + np.arange(170)[None] // 7) % 5

    def oracle(images: np.ndarray) -> dict[str, np.ndarray]:
        classes = images[..., 0].copy()
        classes[:, 0] = classes[:, -1] = classes[:, :, 0] = classes[:, :, -1] = 99  # never trust a tile's edge
        return {"classes": classes, "confidence": np.full(classes.shape, 0.5, np.float32)}

    image = np.repeat(truth[..., None], 3, 2).astype(np.uint8)
    found = predict_tiled(oracle, image, InputSpec(3, 64, 64), PLAIN, size=64, overlap=0.3)
    assert found["classes"].shape == found["confidence"].shape == (1, 130, 170)
    assert np.array_equal(found["classes"][0, 1:-1, 1:-1], truth[1:-1, 1:-1])
    half = predict_tiled(oracle, image, InputSpec(3, 32, 32), PLAIN, size=64, overlap=0.3)
    assert half["classes"].shape == (1, 65, 85)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_without_cut_boxes_it_is_the_usual_suppression(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 80, (60, 2))
    boxes, scores, labels = np.concatenate([corners, corners + rng.uniform(5, 40, (60, 2))], 1), rng.random(60), rng.integers(0, 3, 60)
    mine = kept(boxes, scores.astype(np.float32), labels, np.zeros(60, bool), rng.integers(0, 4, 60), iou)
    expected = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float32)).double(), torch.from_numpy(labels), iou)
    assert mine.tolist() == expected.tolist()


def large(
    tmp_path: Path, boxes: list[list[int]], width: int, height: int, split: str | None, name: str = "a", masks: bool = True
) -> LargeImage:
    path = tmp_path / f"{name}.png"
    Image.fromarray(painted(boxes, width, height)).save(path)
    return LargeImage(f"photos/{name}.png", path, objects(boxes, width, height, masks=masks), split)  # type: ignore[arg-type]


CROSSING = [*SPREAD, [130, 90, 150, 110]]  # the last lies on both sides of where validation begins


@pytest.mark.parametrize("masks", [False, True])
def test_a_folder_of_tiles(tmp_path: Path, masks: bool) -> None:
    images = [large(tmp_path, CROSSING, 160, 130, "train", "a", masks), large(tmp_path, [[1, 1, 9, 9]], 40, 30, "test", "b", masks)]
    folder = tmp_path / "tiles"
    count = write_tiles(folder, images, ["x", "y", "z"], size=64, overlap=0.3)
    assert count == len(list(folder.rglob("*.png")))
    seen = 0
    for split in ("train", "validation", "test"):
        coco = COCO(folder / split / "_annotations.coco.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["x", "y", "z"]
        for number, entry in coco.imgs.items():
            pixels = np.asarray(Image.open(folder / split / entry["file_name"]))
            assert pixels.shape == (64, 64)  # grey stays grey
            for a in coco.loadAnns(coco.getAnnIds(imgIds=number)):
                x, y, wide, tall = a["bbox"]
                part = pixels[round(y) : round(y + tall), round(x) : round(x + wide)]
                level = np.bincount(part.ravel()).argmax()
                assert part.all()
                assert (level // 10 - 1) % 3 == a["category_id"] - 1
                if masks:
                    assert np.array_equal(coco.annToMask(a).astype(bool), pixels == level)
                seen += not a["iscrowd"]
    assert seen >= len(CROSSING)


def test_no_pixel_is_in_two_splits(tmp_path: Path) -> None:
    for split, expected in ((None, {"train", "validation", "test"}), ("train", {"train", "validation", "test"})):
        image = large(tmp_path, CROSSING, 160, 130, split)
        folder = tmp_path / f"tiles {split}"
        write_tiles(folder, [image], ["x", "y", "z"], size=48)
        seen = {}
        for part in filter(Path.is_dir, folder.iterdir()):
            seen[part.name] = np.zeros((200, 200), bool)
            written = json.loads((part / "_annotations.coco.json").read_text())
            for entry in written["images"]:
                shown = np.asarray(Image.open(part / entry["file_name"])) > 0
                for left, top, wide, tall in (a["bbox"] for a in written["annotations"] if a["image_id"] == entry["id"]):
                    assert shown[round(top) : round(top + tall), round(left) : round(left + wide)].all()  # no object in the black
                seen[part.name][entry["top"] : entry["top"] + 48, entry["left"] : entry["left"] + 48] |= shown
        assert set(seen) == expected
        assert sum(one.astype(int) for one in seen.values()).max() == 1
        assert np.array_equal(sum(one.astype(int) for one in seen.values())[:130, :160] > 0, painted(CROSSING, 160, 130)[..., 0] > 0)


def test_many_images_are_split_as_wholes() -> None:
    images = [LargeImage(str(i), Path("x"), objects([], 100, 60), "test" if i < 3 else None) for i in range(43)]
    hashes = np.random.default_rng(0).integers(0, 256, (43, 32), dtype=np.uint8)
    regions = regions_of(images, hashes, 0)
    assert all(len(r) == 1 and r[0][1] == (0, 0, 100, 60) for r in regions)
    assert [r[0][0] for r in regions[:3]] == ["test"] * 3
    assert 3 <= sum(r[0][0] == "validation" for r in regions[3:]) <= 9
    assert regions != regions_of(images, hashes, 1)
    assert regions[:-1] == regions_of(images[:-1], hashes[:-1], 0), "an image more moves no other"


def test_annotations_of_another_image_and_broken_files_are_named(tmp_path: Path) -> None:
    wrong = large(tmp_path, SPREAD, 160, 130, "train")
    Image.new("RGB", (100, 100)).save(wrong.path)
    with pytest.raises(DataError, match=r"photos/a\.png.*100 x 100.*160 x 130"):
        write_tiles(tmp_path / "tiles", [wrong], ["x", "y", "z"], size=64)
    wrong.path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"photos/a\.png"):
        write_tiles(tmp_path / "tiles", [wrong], ["x", "y", "z"], size=64)
    wrong.path.unlink()
    with pytest.raises(DataError, match=r"photos/a\.png"):
        write_tiles(tmp_path / "tiles", [wrong], ["x", "y", "z"], size=64)
    assert not (tmp_path / "tiles").exists()


@pytest.mark.skipif(not DEEPFOREST.is_dir(), reason="needs ../shared/fetch_data.py deepforest")
def test_deepforest_tiles_and_a_perfect_model_finds_all_trees(tmp_path: Path) -> None:
    images = []
    for path in sorted(DEEPFOREST.glob("*.xml")):
        tree = ElementTree.parse(path).getroot()
        boxes = [[int(float(b.findtext(k) or 0)) for k in ("xmin", "ymin", "xmax", "ymax")] for b in tree.iter("bndbox")]
        picture = path.with_suffix(".png")
        width, height = Image.open(picture).size
        found = objects(boxes, width, height)
        one_class = Objects(found.boxes, np.zeros(len(boxes), np.int64), height, width, found.crowd, found.areas)
        images.append(LargeImage(picture.name, picture, one_class, "train" if "crop2" in path.name else "test"))
    folder = tmp_path / "tiles"
    write_tiles(folder, images, ["tree"], size=400, overlap=0.25)
    counts = {part.name: json.loads((part / "_annotations.coco.json").read_text()) for part in folder.iterdir() if part.is_dir()}
    assert set(counts) == {"train", "validation", "test"}
    assert all(len(found["annotations"]) > 20 for found in counts.values())
    image = next(i for i in images if "541000" in i.key)
    tiles = tiles_of(image.target.width, image.target.height, 400, 0.25)
    cut = cut_objects(image.target, tiles, 0.0)
    most = max(len(some) for some in cut)
    outputs = {"boxes": np.zeros((len(tiles), most, 4), np.float32), "scores": np.zeros((len(tiles), most), np.float32)}
    outputs["labels"] = np.zeros((len(tiles), most), np.int64)
    for i, some in enumerate(cut):
        outputs["boxes"][i, : len(some)] = some.boxes
        outputs["scores"][i, : len(some)] = np.random.default_rng(i).uniform(0.1, 1, len(some))
    answer = merged(outputs, tiles, image.target.height, image.target.width)
    rows = answer["scores"][0] > 0
    missing = [box for box in image.target.boxes if np.abs(answer["boxes"][0, rows] - box).max(1).min() > 2e-3]
    assert len(missing) <= 0.03 * len(image.target)
    assert rows.sum() <= 1.03 * len(image.target)


def write_split(folder: Path, split: str, width: int, height: int) -> None:
    """Two photos with the boxes of ``SPREAD`` each, in COCO layout."""
    (folder / split).mkdir(parents=True)
    annotations = [
        {"id": i * 100 + k, "image_id": i, "category_id": k % 3, "bbox": [left, top, right - left, bottom - top], "iscrowd": 0}
        for i in range(2)
        for k, (left, top, right, bottom) in enumerate(SPREAD)
    ]
    listed = [{"id": i, "file_name": f"{split}{i}.png", "height": height, "width": width} for i in range(2)]
    for image in listed:
        Image.fromarray(painted(SPREAD, width, height)).save(folder / split / str(image["file_name"]))
    names = [{"id": k, "name": name} for k, name in enumerate("xyz")]
    content = {"images": listed, "annotations": annotations, "categories": names}
    (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def test_from_a_folder_to_tiles_and_to_metrics_of_whole_images(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_split(tmp_path / "photos", split, 200, 150)
    count = tile_images(tmp_path / "photos", tmp_path / "tiles", size=64, overlap=0.5, cache_dir=tmp_path / "cache")
    tiles = load_images(tmp_path / "tiles", cache_dir=tmp_path / "cache")
    assert tiles.class_names == ("x", "y", "z")
    assert [len(tiles.splits[name]) for name in ("train", "validation", "test")] == [count // 3] * 3
    assert all("train" in str(path) for path in tiles.splits["train"].paths)
    photos = load_images(tmp_path / "photos", cache_dir=tmp_path / "cache")
    task = task_for("detection", photos.splits, photos.class_names)
    found = evaluate_tiled(Oracle(), task, "test", InputSpec(3, 64, 64), PLAIN, 64, 0.5)
    assert found.metrics["uncapped_map"].value == pytest.approx(100)
    halves = evaluate_tiled(Oracle(), task, "test", InputSpec(3, 64, 64), PLAIN, 64, 0.0)
    assert halves.metrics["uncapped_map"].value < 99, "without overlap some are only seen in parts"
    with pytest.raises(DataError, match="is there already"):
        tile_images(tmp_path / "photos", tmp_path / "tiles", size=64, cache_dir=tmp_path / "cache")


class MapOracle:
    """Says of each pixel the class that its grey level stands for."""

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"classes": images[..., 0] // 60, "confidence": np.ones(images.shape[:3], np.float32)}


@pytest.mark.parametrize("factor", [1, 2])
def test_label_maps_are_tiled_as_their_images_are(tmp_path: Path, factor: int) -> None:
    (tmp_path / "photos/images").mkdir(parents=True)
    (tmp_path / "photos/masks").mkdir()
    (tmp_path / "photos/classes.txt").write_text("ground\nroof\nroad\n")
    for i in range(24):
        coarse = np.random.default_rng(i).integers(0, 3, (7, 10)).astype(np.uint8)
        labels = coarse.repeat(20, 0).repeat(20, 1)  # 140 x 200
        Image.fromarray((labels * 60)[..., None].repeat(3, 2)).save(tmp_path / f"photos/images/{i}.png")
        labels[:20, :20] = 255
        Image.fromarray(labels[::factor, ::factor]).save(tmp_path / f"photos/masks/{i}.png")  # a map may be coarser than its image
    count = tile_images(tmp_path / "photos", tmp_path / "tiles", size=64, overlap=0.3, cache_dir=tmp_path / "cache")
    tiles = load_images(tmp_path / "tiles", cache_dir=tmp_path / "cache")
    assert tiles.class_names == ("ground", "roof", "road")
    given = [tiles.splits[name] for name in ("train", "validation", "test")]
    assert sum(map(len, given)) == count == 24 * len(tiles_of(200, 140, 64, 0.3))
    asked = []
    for split in given:
        for path, labels in zip(split.paths, split.targets, strict=True):
            pixels = np.asarray(Image.open(path))
            assert np.array_equal(labels[labels < 255], pixels[labels < 255] // 60)
            asked.append((labels < 255).mean())
    assert min(asked) < 1 == max(asked)
    photos = load_images(tmp_path / "photos", cache_dir=tmp_path / "cache")
    task = task_for("semantic", photos.splits, photos.class_names)
    found = evaluate_tiled(MapOracle(), task, "test", InputSpec(3, 64, 64), PLAIN, 64, 0.3)
    assert found.metrics["miou"].value == pytest.approx(100)


def test_bands_of_a_label_map_show_nothing_of_their_neighbours(tmp_path: Path) -> None:
    labels = np.ones((60, 200), np.uint8)
    Image.fromarray(labels * 60).save(tmp_path / "a.png")
    write_tiles(tmp_path / "tiles", [LargeImage("a.png", tmp_path / "a.png", LargeMap(lambda: labels, 60, 200))], ["x", "y"], size=64)
    shown = 0
    for file in (tmp_path / "tiles").rglob("masks/*.png"):
        found, pixels = np.asarray(Image.open(file)), np.asarray(Image.open(file.parents[1] / "images" / file.name))
        assert np.array_equal(found == 255, pixels == 0)
        shown += "test" in file.parts
    assert shown == 1


def test_what_is_not_tiled_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has class folders, for classification"):
        tile_images("fashion-mini", tmp_path / "tiles", size=64)

    def logits(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": np.zeros((len(images), 3), np.float32)}

    with pytest.raises(ModelError, match="a model that returns logits"):
        predict_tiled(logits, painted(SPREAD, 200, 150), InputSpec(3, 64, 64), PLAIN, size=64)


def test_maps_of_an_odd_side_leave_no_gap_between_tiles() -> None:
    """A map of 25 pixels for a tile of 50: corners at half pixels were rounded to the even pixel, and rows stayed 0."""
    answer = predict_tiled(
        lambda pixels: {"classes": np.ones((len(pixels), 25, 25), np.uint8), "confidence": np.ones((len(pixels), 25, 25), np.float32)},
        np.zeros((71, 99, 3), np.uint8),
        InputSpec(3, 50, 50),
        PLAIN,
        size=50,
    )
    assert (answer["classes"] == 1).all()


def test_images_beyond_the_limit_of_pillow_can_be_tiled(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Aerial photos of 15,000 pixels a side were refused, with the words that 1,073,741,824 pixels are decoded."""
    Image.new("1", (14_000, 13_500)).save(tmp_path / "a.png")
    assert size_of(AnnotatedImage("a.png", tmp_path / "a.png", None)) == (13_500, 14_000)
    with (tmp_path / "a.png").open("rb") as file, open_header(file, LARGEST_PIXELS) as image:
        assert image.size == (14_000, 13_500)
    with pytest.raises(DataError, match="at most 64,000,000"):
        decode((tmp_path / "a.png").read_bytes(), 1, 64)
    assert not recwarn.list


def test_a_split_whose_tiles_have_no_object_keeps_them(tmp_path: Path) -> None:
    """They were taken for unlabelled images, and test was then cut from the overlapping tiles of train."""
    pixels = np.random.default_rng(0).integers(0, 256, (150, 310, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = LargeImage("a.png", tmp_path / "a.png", objects([[10, 10, 30, 30], [230, 20, 250, 40]], 310, 150))
    count = write_tiles(tmp_path / "tiles", [image], ["a", "b"], size=64)
    data = load_images(tmp_path / "tiles", cache_dir=tmp_path / "cache")
    assert data.report.images == count
    assert data.given == ("train", "validation", "test")
    assert not any(len(one) for one in data.splits["test"].targets)
