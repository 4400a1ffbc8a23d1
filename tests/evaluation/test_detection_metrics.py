"""Mean average precision against COCO's own code, on random and on nasty cases."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from planish.data.targets.objects import Objects
from planish.errors import ModelError
from planish.evaluation.metrics.detection import average_precision_by_class, detection_metrics, detection_scores
from planish.evaluation.metrics.matching import compute_overlaps

STATS = {"map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5, "mar_100": 8}


Scenes = tuple[list[Objects], dict[str, Any]]


def scenes(seed: int, images: int, classes: int, kept: int, *, nasty: bool = False, masks: bool = False) -> Scenes:
    """Objects, and detections near some of them: with crowds, equal scores, boxes of a pixel and beyond the image where it is nasty."""
    rng = np.random.default_rng(seed)
    targets, boxes = [], np.zeros((images, kept, 4), np.float32)
    scores, labels = np.zeros((images, kept), np.float32), np.zeros((images, kept), np.int64)
    said = np.zeros((images, kept, 16, 16), np.float32)
    for i in range(images):
        count, height, width = int(rng.integers(0, 6)), int(rng.integers(40, 300)), int(rng.integers(40, 300))
        corners = rng.uniform(0, 0.7, (count, 2))
        sides = rng.uniform(0.02, 0.5, (count, 2))
        if nasty and count:
            sides[0] = 1 / width, 1 / height
        true = np.concatenate([corners, np.minimum(corners + sides, 1)], 1).astype(np.float32)
        kinds = rng.integers(0, classes, count)
        lengths, areas = None, ((true[:, 2] - true[:, 0]) * width * (true[:, 3] - true[:, 1]) * height).astype(np.float64)
        if masks:
            painted = [_painted(box, height, width) for box in true]
            lengths = tuple(coco.encode(np.asfortranarray(p)) for p in painted)
            areas = np.array([p.sum() for p in painted], np.float64)
        targets.append(Objects(true, kinds, height, width, rng.random(count) < (0.2 if nasty else 0), areas, lengths))
        for k in range(kept if rng.random() < 0.9 else 0):
            if count and rng.random() < 0.6:
                which = rng.integers(count)
                box, label = true[which] + rng.normal(0, 0.02, 4), kinds[which] if rng.random() < 0.8 else rng.integers(classes)
            else:
                corner = rng.uniform(-0.1 if nasty else 0, 0.7, 2)
                box, label = np.concatenate([corner, corner + rng.uniform(0.02, 0.3, 2)]), rng.integers(classes)
            boxes[i, k], labels[i, k], scores[i, k] = box, label, np.round(rng.random(), 1 if nasty else 6) + 0.01
            said[i, k] = _painted(np.clip(box, 0, 1), 16, 16)
        order = np.argsort(-scores[i], kind="stable")
        boxes[i], labels[i], scores[i], said[i] = boxes[i][order], labels[i][order], scores[i][order], said[i][order]
    return targets, {"boxes": boxes, "scores": scores, "labels": labels} | ({"masks": said} if masks else {})


def _painted(box: Any, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    left, top, right, bottom = np.round(np.asarray(box) * [width, height, width, height]).astype(int)
    mask[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = 1
    return mask


def reference(targets: list[Objects], outputs: dict[str, Any], classes: int, kind: str = "bbox") -> Any:
    return judged_by_coco(targets, outputs, classes, kind).stats


def judged_by_coco(targets: list[Objects], outputs: dict[str, Any], classes: int, kind: str = "bbox") -> Any:
    from planish.evaluation.metrics.matching import encode_probabilities

    annotations, found = [], []
    for i, one in enumerate(targets):
        sides = np.array([one.width, one.height, one.width, one.height], float)
        for k, (box, label, crowd, area) in enumerate(zip(one.boxes.astype(float), one.labels, one.crowd, one.areas, strict=True)):
            x = box * sides
            noted = {"id": len(annotations) + 1, "image_id": i, "category_id": int(label), "area": float(area), "iscrowd": int(crowd)}
            noted["bbox"] = [x[0], x[1], x[2] - x[0], x[3] - x[1]]
            if one.masks is not None:
                noted["segmentation"] = one.masks[k]
            annotations.append(noted)
        masks = (
            encode_probabilities(outputs["masks"][i], one.height, one.width) if "masks" in outputs else [None] * len(outputs["boxes"][i])
        )
        for box, score, label, mask in zip(
            outputs["boxes"][i].astype(float), outputs["scores"][i], outputs["labels"][i], masks, strict=True
        ):
            if score > 0:
                x = box * sides
                said: dict[str, Any] = {"image_id": i, "category_id": int(label), "score": float(score)}
                said |= {"bbox": [x[0], x[1], x[2] - x[0], x[3] - x[1]]} if mask is None else {"segmentation": mask}
                found.append(said)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, "height": t.height, "width": t.width} for i, t in enumerate(targets)],
            "annotations": annotations,
            "categories": [{"id": c} for c in range(classes)],
            "info": {},
        }
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(found), kind)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 4), kept=st.sampled_from([3, 20, 120]), nasty=st.booleans())
def test_boxes_are_judged_as_coco_does(seed: int, classes: int, kept: int, nasty: bool) -> None:
    targets, outputs = scenes(seed, 12, classes, kept, nasty=nasty)
    if not sum(map(len, targets)) or not (outputs["scores"] > 0).any():
        return
    expected = reference(targets, outputs, classes)
    found = detection_metrics(outputs, targets, [str(c) for c in range(classes)])
    for name, place in STATS.items():
        if expected[place] >= 0:
            assert found[name].value == pytest.approx(100 * expected[place], abs=1e-6), name
        else:
            assert name not in found, "what cannot be told is left out"


def test_masks_are_judged_as_coco_does() -> None:
    targets, outputs = scenes(3, 15, 2, 8, masks=True)
    expected = reference(targets, outputs, 2, "segm")
    assert sum(expected[place] >= 0 for place in STATS.values()) >= len(STATS) - 3, "few sizes are missing"
    found = detection_metrics(outputs, targets, ["a", "b"], masks=True)
    assert next(iter(found)) == "mask_map"
    for name, place in STATS.items():
        if expected[place] >= 0:
            assert found[f"mask_{name}"].value == pytest.approx(100 * expected[place], abs=1e-6), name
    assert "map" in found, "boxes are judged beside them"


def test_scores_of_images_mean_the_metric_and_spread_as_it_does() -> None:
    """Their interval is about as wide as the spread of the metric over other images of the same kind."""
    names = ["a", "b"]
    values, widths = [], []
    for seed in range(24):
        targets, outputs = scenes(seed, 150, 2, 6)
        scores = detection_scores(outputs, targets, names)
        values.append(detection_metrics(outputs, targets, names)["map"].value)
        assert 100 * scores.mean() == pytest.approx(values[-1], abs=1e-9)
        widths.append(100 * scores.std(ddof=1) / np.sqrt(len(scores)))
    assert 0.6 < np.mean(widths) / np.std(values, ddof=1) < 1.7


@pytest.mark.parametrize(("metric", "place"), [("map", slice(None)), ("map_50", 0), ("map_60", 2), ("map_95", 9)])
def test_the_metric_at_one_overlap_is_coco_s(metric: str, place: Any) -> None:
    targets, outputs = scenes(5, 30, 2, 20)
    precision = judged_by_coco(targets, outputs, 2).eval["precision"][place, :, :, 0, 2]  # all sizes, at most 100 detections
    found = detection_metrics(outputs, targets, ["a", "b"], primary=metric)
    assert next(iter(found)) == metric
    assert found[metric].value == pytest.approx(100 * precision.mean(), abs=1e-6)
    assert detection_scores(outputs, targets, ["a", "b"], metric=metric).mean() == pytest.approx(precision.mean(), abs=1e-9)


def test_nothing_found_and_nothing_there() -> None:
    empty = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 50, 50, np.zeros(0, bool), np.zeros(0))
    one = Objects(np.array([[0, 0, 1, 1]], np.float32), np.zeros(1, np.int64), 50, 50, np.zeros(1, bool), np.array([2500.0]))
    blind = {"boxes": np.zeros((2, 5, 4), np.float32), "scores": np.zeros((2, 5), np.float32), "labels": np.zeros((2, 5), np.int64)}
    assert detection_metrics(blind, [empty, one], ["a"])["map"].value == 0
    assert detection_scores(blind, [empty, one], ["a"]).tolist() == [0, 0]
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 5, 1))
    sure = blind | {"boxes": whole, "scores": np.array([[0] * 5, [0.9, 0, 0, 0, 0]], np.float32)}
    assert detection_metrics(sure, [empty, one], ["a"])["map"].value == pytest.approx(100)
    assert set(average_precision_by_class(sure, [empty, one], ["a", "b"])) == {"a"}, "of b there is nothing"


def test_scores_that_are_nan_are_refused() -> None:
    targets, outputs = scenes(0, 5, 2, 4)
    outputs["scores"][3, 1] = np.nan
    with pytest.raises(ModelError, match="NaN for 1 of 5"):
        detection_metrics(outputs, targets, ["a", "b"])


def test_what_was_asked_before_is_remembered_and_nothing_else_is_taken_for_it() -> None:
    targets, outputs = scenes(3, 20, 2, 5, masks=True)
    first = compute_overlaps(outputs, targets, masks=True)
    assert compute_overlaps({name: values.copy() for name, values in outputs.items()}, tuple(targets), masks=True) is first
    assert compute_overlaps(outputs, targets) is not first, "boxes"
    assert compute_overlaps(outputs, targets[::-1], masks=True) is not first
    outputs["masks"][7, 0] = 0
    assert compute_overlaps(outputs, targets, masks=True) is not first
    assert compute_overlaps(outputs, targets, masks=True)[7].area[0] == 0
