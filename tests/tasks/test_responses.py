"""What is said of an image: boxes and masks in the pixels of the image that was sent, whatever part of it the model was shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from planish.data.targets.run_lengths import run_lengths
from planish.errors import BundleError
from planish.tasks.drift_statistics import statistics
from planish.tasks.localisation import View
from planish.tasks.readme_text import lines
from planish.tasks.responses import ResponseOptions, options, response_classes, responses

NAMES = ("cat", "dog", "hen")


def decoded(lengths: dict[str, Any]) -> np.ndarray:
    return coco.decode({**lengths, "counts": lengths["counts"].encode()}).astype(bool)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.3, 0.7, 0.98, 1.0]))


@settings(max_examples=300, deadline=None)
@given(masks())
def test_run_lengths_are_cocos(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert run_lengths(mask) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}


@settings(max_examples=300, deadline=None)
@given(masks(), st.integers(1, 90), st.integers(1, 90), st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(1, 4)] * 2))
def test_a_mask_is_laid_over_its_place_by_the_nearest_pixel(
    mask: np.ndarray, height: int, width: int, start: tuple[int, int], share: tuple[int, int]
) -> None:
    left, top, wide, high = start[0] / 7, start[1] / 7, share[0] / 7, share[1] / 7
    # in whole numbers, so that no pixel is on an edge by rounding alone
    rows = ((2 * np.arange(height) + 1) * 7 - 2 * height * start[1]) * mask.shape[0] // (2 * height * share[1])
    columns = ((2 * np.arange(width) + 1) * 7 - 2 * width * start[0]) * mask.shape[1] // (2 * width * share[0])
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & ((columns >= 0) & (columns < mask.shape[1]))
    expected = inside & mask[rows.clip(0, mask.shape[0] - 1)][:, columns.clip(0, mask.shape[1] - 1)]
    found = run_lengths(mask, (height, width), (left, top, wide, high))
    theirs = coco.encode(np.asfortranarray(expected.astype(np.uint8)))
    assert found == {"size": [height, width], "counts": theirs["counts"].decode()}


def detections(**more: Any) -> dict[str, Any]:
    boxes = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.2, 1.0], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0]]], np.float32)
    return {"boxes": boxes, "scores": np.array([[0.9, 0.5, 0.25, 0]], np.float32), "labels": np.array([[2, 0, 1, 0]]), **more}


def test_objects_are_told_in_pixels_and_in_shares() -> None:
    (said,) = responses("detection", detections(), NAMES, [View(300, 400)])
    assert (said["height"], said["width"]) == (300, 400)
    assert [(one["class"], round(one["confidence"], 3), one["box"]) for one in said["objects"]] == [
        ("hen", 0.9, [40.0, 60.0, 200.0, 180.0]),
        ("cat", 0.5, [0.0, 0.0, 400.0, 300.0]),
    ]
    assert said["objects"][0]["shares"] == [0.1, 0.2, 0.5, 0.6]
    assert response_classes("detection", said) == ["hen", "cat"]


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.25, 3), (0.26, 2), (0.6, 1), (1.0, 0)])
def test_the_threshold_decides_and_nothing_stays_nothing(threshold: float, count: int) -> None:
    (said,) = responses("detection", detections(), NAMES, [View(10, 10)], ResponseOptions(threshold=threshold))
    assert len(said["objects"]) == count


def test_of_an_image_of_which_the_middle_was_shown_boxes_lie_in_the_middle() -> None:
    (said,) = responses("detection", detections(), NAMES, [View(100, 200, (0.25, 0.0, 0.5, 1.0))])
    assert said["objects"][0]["box"] == [60.0, 20.0, 100.0, 60.0]
    assert said["objects"][1]["box"] == [50.0, 0.0, 150.0, 100.0]


@pytest.mark.parametrize("size", [(480, 640), (97, 61), (20, 13), (1, 1), (3000, 2000)])
def test_masks_are_the_enlarged_maps(size: tuple[int, int]) -> None:
    """Against Pillow's enlargement of the whole map, of which only what lies in the box is made."""
    from PIL import Image

    y, x = np.mgrid[:40, :30] / [[[40]], [[30]]]
    map_ = np.exp(-(((x - 0.3) / 0.15) ** 2) - ((y - 0.4) / 0.15) ** 2).astype(np.float32)
    inside_box = (x >= 0.1) & (x < 0.5) & (y >= 0.2) & (y < 0.6)
    maps = np.zeros((1, 4, 40, 30), np.float32)
    maps[0, 0] = map_ * inside_box
    (said,) = responses("instance", detections(masks=maps), NAMES, [View(*size)])
    found = decoded(said["objects"][0]["mask"])
    whole = np.asarray(Image.fromarray(maps[0, 0]).resize(size[::-1], Image.Resampling.BILINEAR)) > 0.5
    assert found.shape == size
    if max(size) <= 1024:
        assert (found == whole).all()
    else:  # the nearest of 1024 pixels a side
        assert (found & whole).sum() / (found | whole).sum() > 0.99
    assert not decoded(said["objects"][1]["mask"]).any()


def test_masks_of_boxes_without_a_size_are_told_as_well() -> None:
    outputs = detections(masks=np.ones((1, 4, 8, 8), np.float32))
    outputs["boxes"][0, 0] = [1, 1, 1, 1]
    outputs["boxes"][0, 1] = [0.5, 0.5, 0.4, 0.4]
    (said,) = responses("instance", outputs, NAMES, [View(50, 60)])
    assert [decoded(one["mask"]).shape for one in said["objects"]] == [(50, 60)] * 2


def test_regions_are_all_of_the_image_that_was_shown() -> None:
    labels = np.array([[[0, 0, 2, 2], [0, 0, 0, 2]]], np.uint8)
    sure = np.where(labels == 2, 0.5, 0.9).astype(np.float32)
    (said,) = responses("semantic", {"classes": labels, "confidence": sure}, NAMES, [View(20, 80, (0.25, 0, 0.5, 1))])
    assert [(one["class"], one["share"], round(one["confidence"], 3)) for one in said["regions"]] == [
        ("cat", 0.625, 0.9),
        ("hen", 0.375, 0.5),
    ]
    assert said["confidence"] == pytest.approx(0.75)
    enlarged = np.kron(labels[0], np.ones((10, 10)))
    for one, label in zip(said["regions"], (0, 2), strict=True):
        found = decoded(one["mask"])
        assert (found[:, 20:60] == (enlarged == label)).all()
        assert not found[:, :20].any()
        assert not found[:, 60:].any()


def test_each_image_is_told_by_its_own_size() -> None:
    twice = {name: np.concatenate([values, values]) for name, values in detections().items()}
    said = responses("detection", twice, NAMES, [View(10, 10), View(20, 40)])
    assert [one["objects"][0]["box"] for one in said] == [[1, 2, 5, 6], [4, 4, 20, 12]]


def test_what_is_not_known() -> None:
    with pytest.raises(BundleError, match="answers are known for"):
        responses("poetry", detections(), NAMES, [View(1, 1)])
    assert statistics("poetry", detections(), NAMES) == [({}, None)]
    assert "shape" in lines("poetry").printed
    assert {task: options(task) for task in ("classification", "detection", "instance", "semantic")} == {
        "classification": ("why",), "detection": ("threshold",), "instance": ("threshold",), "semantic": (),
    }  # fmt: skip


def test_statistics_of_objects_and_regions() -> None:
    ((values, drawn),) = statistics("detection", detections(), NAMES)
    assert values == pytest.approx({"objects": 2, "object size": (0.16 + 1) / 2, "confidence": 0.7}, abs=1e-6)
    assert drawn in ("hen", "cat")
    nothing = detections(scores=np.array([[0.2, 0.1, 0, 0]], np.float32))
    assert statistics("detection", nothing, NAMES) == [({"objects": 0.0}, None)]
    labels = np.array([[[0, 0, 2, 2], [0, 0, 0, 2]]], np.uint8)
    ((values, drawn),) = statistics("semantic", {"classes": labels, "confidence": np.full((1, 2, 4), 0.5, np.float32)}, NAMES)
    assert values == {"confidence": 0.5, "share of cat": 0.625, "share of dog": 0.0, "share of hen": 0.375}
    assert drawn is None


def test_the_drawn_object_is_each_in_turn() -> None:
    """Over many images as often the one as the other; the same for the same image."""
    rng = np.random.default_rng(0)
    count = 600
    scores = -np.sort(-rng.uniform(0.35, 1, (count, 3)), axis=1).astype(np.float32)
    outputs = {"boxes": np.zeros((count, 3, 4), np.float32), "scores": scores, "labels": np.tile(np.arange(3), (count, 1))}
    drawn = [named for _, named in statistics("detection", outputs, NAMES)]
    assert all(150 < drawn.count(name) < 250 for name in NAMES)
    assert drawn == [named for _, named in statistics("detection", outputs, NAMES)]
