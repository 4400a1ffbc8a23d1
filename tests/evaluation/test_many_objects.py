"""Images with hundreds of objects: a perfect detector scores 100 on them, tile by tile, and COCO's own number stays COCO's."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from planish.artifact import InputSpec, Preprocessing
from planish.data.targets.objects import Objects
from planish.evaluation.evaluate import Evaluated, evaluate_tiled
from planish.evaluation.metrics.detection import detection_metrics
from planish.tasks import task_for

PLAIN = Preprocessing(10**9, "squash", (0.0,) * 3, (1.0,) * 3)
GREYS = (120, 250)  # of the two classes
NAMES = ("oak", "fir")


def forest(count: int, seed: int, classes: int = 2) -> tuple[np.ndarray, Objects]:
    """Trees of 5 to 12 pixels on a grid, none touching another, two of three of the first class."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count)))
    side = 16 * columns
    places = rng.permutation(columns**2)[:count]
    corners = np.stack([places % columns, places // columns], 1) * 16 + rng.integers(1, 3, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 13, (count, 2))], 1)
    labels = (np.arange(count) % 3 == 2).astype(np.int64) * (classes > 1)
    image = np.zeros((side, side, 3), np.uint8)
    for (left, top, right, bottom), label in zip(boxes, labels, strict=True):
        image[top:bottom, left:right] = GREYS[label]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64)
    return image, Objects((boxes / side).astype(np.float32), labels, side, side, np.zeros(count, bool), areas)


class Split:
    def __init__(self, scenes: list[tuple[np.ndarray, Objects]]) -> None:
        self.pixels, self.targets = [image for image, _ in scenes], tuple(objects for _, objects in scenes)
        self.keys = [str(i) for i in range(len(scenes))]

    def __len__(self) -> int:
        return len(self.targets)

    def file_bytes(self, index: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(stream, "png")
        return stream.getvalue()


def oracle(images: np.ndarray) -> dict[str, np.ndarray]:
    """Every rectangle in a tile; the larger the surer."""
    rows: list[list[tuple[Any, ...]]] = []
    for image in images[..., 0]:
        parts, _ = scipy.ndimage.label(image > 0)
        found = []
        for down, across in scipy.ndimage.find_objects(parts):
            box = (across.start, down.start, across.stop, down.stop)
            label = GREYS.index(int(image[down.start, across.start]))
            found.append((box, 0.5 + (box[2] - box[0]) * (box[3] - box[1]) / 1000, label))
        rows.append(found)
    most, side = 150, images.shape[1]
    answer = {"boxes": np.zeros((len(images), most, 4), np.float32), "scores": np.zeros((len(images), most), np.float32)}
    answer["labels"] = np.zeros((len(images), most), np.int64)
    for i, found in enumerate(rows):
        for k, (box, score, label) in enumerate(found):
            answer["boxes"][i, k], answer["scores"][i, k], answer["labels"][i, k] = np.array(box) / side, score, label
    return answer


def tiled(scenes: list[tuple[np.ndarray, Objects]]) -> Evaluated:
    task = task_for("detection", {"test": Split(scenes)}, NAMES)  # type: ignore[dict-item]
    return evaluate_tiled(oracle, task, "test", InputSpec(3, 128, 128), PLAIN, 128, 0.25)


@pytest.mark.parametrize("counts", [(500,), (1500, 40)])
def test_a_perfect_detector_scores_100_on_as_many_objects_as_there_are(counts: tuple[int, ...]) -> None:
    scenes = [forest(count, seed, classes=1 if len(counts) == 1 else 2) for seed, count in enumerate(counts)]
    found = tiled(scenes)
    assert (found.outputs["scores"] > 0).sum(1).tolist() == list(counts)
    task, outputs, targets = found.task, found.outputs, found.targets
    assert next(iter(found.metrics)) == task.primary_metric == "uncapped_map"
    assert {name for name in found.metrics if not name.startswith("uncapped_")} == set(), "no name says it is COCO's"
    assert [found.metrics[name].value for name in ("uncapped_map", "uncapped_map_50", "uncapped_mar")] == pytest.approx([100] * 3)
    assert [m.value for m in task.per_class(outputs, targets).values()] == pytest.approx([100] * len(task.per_class(outputs, targets)))
    assert task.scores(outputs, targets).mean() == pytest.approx(1)
    assert all((m.value, m.n) == (0, 0) for m in task.errors(outputs, targets).values())
    capped = detection_metrics(outputs, targets, NAMES)
    assert capped["map"].value < 50, "COCO's metric counts 100 detections per image and class"
    assert next(iter(capped)) == "map"


@pytest.mark.parametrize("uncapped", [False, True])
def test_many_detections_are_judged_as_coco_judges_them_with_its_own_limit_or_a_higher_one(uncapped: bool) -> None:
    rng = np.random.default_rng(0)
    scenes = [forest(count, seed) for seed, count in enumerate((260, 420, 30))]
    found = tiled(scenes)
    outputs = {name: np.array(values) for name, values in found.outputs.items()}
    outputs["boxes"] += rng.normal(0, 0.0015, outputs["boxes"].shape).astype(np.float32)
    outputs["scores"] = np.where(outputs["scores"] > 0, rng.random(outputs["scores"].shape), 0).astype(np.float32)
    outputs["labels"] = np.where(rng.random(outputs["labels"].shape) < 0.1, 1 - outputs["labels"], outputs["labels"])
    mine = detection_metrics(outputs, found.targets, NAMES, uncapped=uncapped)
    precision, recall = coco_evaluation(found.targets, outputs, 10_000 if uncapped else 100)
    names = ("uncapped_map", "uncapped_map_50", "uncapped_mar") if uncapped else ("map", "map_50", "mar_100")
    expected = [precision.mean(), precision[0].mean(), recall.mean()]
    assert [mine[name].value for name in names] == pytest.approx([100 * value for value in expected], abs=1e-6)


def coco_evaluation(targets: Any, outputs: dict[str, Any], most: int) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision ``(T, R, classes)`` and recall ``(T, classes)`` with ``maxDets``."""

    def pixels(box: np.ndarray, side: int) -> list[float]:
        left, top, right, bottom = (box.astype(float) * side).tolist()
        return [left, top, right - left, bottom - top]

    annotations = [
        {"image_id": i, "category_id": int(label), "area": area, "iscrowd": 0, "bbox": pixels(box, one.width)}
        for i, one in enumerate(targets)
        for box, label, area in zip(one.boxes, one.labels, one.areas, strict=True)
    ]
    said = [
        {"image_id": i, "category_id": int(outputs["labels"][i, k]), "score": float(outputs["scores"][i, k])}
        | {"bbox": pixels(outputs["boxes"][i, k], one.width)}
        for i, one in enumerate(targets)
        for k in np.flatnonzero(outputs["scores"][i] > 0)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(len(targets))],
            "annotations": [{"id": n + 1} | a for n, a in enumerate(annotations)],
            "categories": [{"id": 0}, {"id": 1}],
            "info": {},
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(said), "bbox")
        judged.params.maxDets = [1, 10, most]
        judged.evaluate()
        judged.accumulate()
    return judged.eval["precision"][:, :, :, 0, -1], judged.eval["recall"][:, :, 0, -1]


def test_errors_beyond_the_hundredth_detection_are_found_in_tiles() -> None:
    """Of 300 trees every tenth is called a fir: 30 wrong classes, most of which COCO's limit hides."""
    image, objects = forest(300, 0, classes=1)
    found = tiled([(image, objects)])
    outputs = found.outputs | {"labels": np.where(np.arange(300) % 10 == 0, 1, 0)[None]}
    told = found.task.errors(outputs, found.targets)
    assert told["wrong_classes"].n == 30
    assert told["missed_objects"].n == 0


def test_label_maps_and_classes_have_no_limit_to_lift() -> None:
    for name in ("semantic", "classification"):
        task = task_for(name, {}, NAMES)
        assert task.uncapped() is task
