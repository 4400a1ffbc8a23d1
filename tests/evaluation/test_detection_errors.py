"""Each kind of error alone is counted as that kind, and costs what COCO's code says it does once the detections are altered by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from planish.data.targets.objects import Objects
from planish.evaluation.errors.detection import KINDS, detection_errors, find_errors
from planish.evaluation.metrics.detection import detection_metrics

SIDE = 100
NAMES = ("cat", "dog", "owl")


def objects(*placed: tuple[float, float, int], crowd: tuple[int, ...] = ()) -> Objects:
    """Squares of 20 pixels at left, top, of a class."""
    boxes = np.array([(x, y, x + 20, y + 20) for x, y, _ in placed], np.float32).reshape(-1, 4) / SIDE
    flags = np.isin(np.arange(len(placed)), crowd)
    masks = tuple(square(box) for box in boxes * SIDE)
    return Objects(boxes, np.array([kind for *_, kind in placed], np.int64), SIDE, SIDE, flags, np.full(len(placed), 400.0), masks)


def square(box: Any) -> dict[str, Any]:
    painted = np.zeros((SIDE, SIDE), np.uint8)
    left, top, right, bottom = np.round(box).astype(int)
    painted[top:bottom, left:right] = 1
    return dict(coco.encode(np.asfortranarray(painted)))


def said(*images: list[tuple[float, float, int, float]]) -> dict[str, Any]:
    """Detections as objects are, and how sure they are, the surest first."""
    kept = max(1, *(len(rows) for rows in images))
    boxes, scores, labels = np.zeros((len(images), kept, 4), np.float32), np.zeros((len(images), kept)), np.zeros((len(images), kept), int)
    masks = np.zeros((len(images), kept, SIDE, SIDE), np.float32)
    for i, rows in enumerate(images):
        for k, (x, y, label, score) in enumerate(rows):
            boxes[i, k], labels[i, k], scores[i, k] = np.array([x, y, x + 20, y + 20]) / SIDE, label, score
            masks[i, k, int(y) : int(y) + 20, int(x) : int(x) + 20] = 1
    return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks}


RIGHT = (10.0, 10.0, 0, 0.9)
THERE = (10.0, 10.0, 0)
MEANT = ("wrong_classes", "bad_places")
ALONE = {
    "wrong_classes": [(10.0, 10.0, 1, 0.8)],
    "bad_places": [(22.0, 10.0, 0, 0.8)],  # covers a quarter
    "wrong_classes_and_places": [(22.0, 10.0, 1, 0.8)],
    "duplicates": [RIGHT, (11.0, 10.0, 0, 0.8)],
    "background": [RIGHT, (70.0, 70.0, 0, 0.8)],
    "missed_objects": [],
}


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_is_that_kind(kind: str, masks: bool) -> None:
    targets = [objects(THERE), objects((50, 50, 1), (10, 60, 2))]
    rows = [ALONE[kind], [(50.0, 50.0, 1, 0.7), (10.0, 60.0, 2, 0.7)]]
    found = detection_errors(said(*rows), targets, NAMES, masks=masks)
    counts = {name: m.n for name, m in found.items() if m.n}
    expected = {kind: 1} | ({"missed_objects": 1} if kind == "wrong_classes_and_places" else {})
    assert counts == expected
    assert not any(m.n for m in detection_errors(said([RIGHT], rows[1]), targets, NAMES, masks=masks).values())


def map50(outputs: dict[str, Any], targets: list[Objects]) -> float:
    return detection_metrics(outputs, targets, NAMES)["map_50"].value


def test_costs_are_what_altered_detections_bring() -> None:
    """``map_50`` is COCO's own to 1e-6, see ``test_detection_metrics``."""
    targets = [objects(THERE, (60, 60, 1)), objects((50, 50, 1), (10, 60, 2)), objects((30, 30, 2))]
    rows = [
        [(70.0, 5.0, 0, 0.95), RIGHT, (60.0, 60.0, 2, 0.85), (12.0, 10.0, 0, 0.6)],  # background, right, wrong class, duplicate
        [(62.0, 50.0, 1, 0.8), (10.0, 60.0, 2, 0.7)],  # bad place, right
        [],  # missed
    ]
    found = detection_errors(said(*rows), targets, NAMES)
    before = map50(said(*rows), targets)
    altered = {
        "background": [[rows[0][1], rows[0][2], rows[0][3]], rows[1], rows[2]],
        "wrong_classes": [[rows[0][0], rows[0][1], (60.0, 60.0, 1, 0.85), rows[0][3]], rows[1], rows[2]],
        "bad_places": [rows[0], [(50.0, 50.0, 1, 0.8), rows[1][1]], rows[2]],
        "duplicates": [rows[0][:3], rows[1], rows[2]],
    }
    for kind, images in altered.items():
        assert found[kind].n == 1
        assert found[kind].value == pytest.approx(map50(said(*images), targets) - before, abs=1e-6), kind
    assert found["missed_objects"].n == 1
    without = map50(said(*rows), [*targets[:2], objects()])
    assert found["missed_objects"].value == pytest.approx(without - before, abs=1e-6)
    assert all(m.low is not None and m.high is not None and m.low <= m.value <= m.high for m in found.values())


def test_what_is_repaired_does_not_become_a_double() -> None:
    """A detection of the wrong class on an object that is found already is taken away with its error, or takes over where it is surer."""
    targets = [objects(THERE, (60, 60, 1))]
    less = said([RIGHT, (11.0, 10.0, 1, 0.5), (60.0, 60.0, 1, 0.4)])
    assert detection_errors(less, targets, NAMES)["wrong_classes"].value == pytest.approx(
        map50(said([RIGHT, (60.0, 60.0, 1, 0.4)]), targets) - map50(less, targets)
    )
    more = said([(11.0, 10.0, 1, 0.95), RIGHT, (60.0, 60.0, 1, 0.4)])
    assert detection_errors(more, targets, NAMES)["wrong_classes"].value == pytest.approx(
        map50(said([(11.0, 10.0, 0, 0.95), (60.0, 60.0, 1, 0.4)]), targets) - map50(more, targets)
    )


@pytest.mark.parametrize("rows", [[[RIGHT], []], [[], []]])
def test_a_class_that_is_missed_wholly_costs_what_finding_it_would_bring(rows: list[Any]) -> None:
    targets = [objects(THERE), objects((50, 50, 1), (10, 60, 1))]
    everything = [[RIGHT], [(50.0, 50.0, 1, 0.7), (10.0, 60.0, 1, 0.7)]]
    lost = detection_errors(said(*rows), targets, NAMES)["missed_objects"]
    assert lost.value == pytest.approx(map50(said(*everything), targets) - map50(said(*rows), targets))
    assert lost.high == pytest.approx(100.0)


def test_without_objects_there_is_nothing_to_tell() -> None:
    assert detection_errors(said([RIGHT], []), [objects(), objects()], NAMES) == {}


def test_what_may_be_two_things_is_what_tide_calls_it() -> None:
    """Its code looks for the right class in a bad place first, then for another class, then for doubles."""
    beside = [objects(THERE, (22, 10, 1), (60, 60, 1), (60, 60, 2))]
    rows = [(22.0, 10.0, 0, 0.9), (60.0, 60.0, 1, 0.8), (60.0, 60.0, 2, 0.7), (60.0, 60.0, 1, 0.6)]
    assert [KINDS[k] if k >= 0 else "" for k in find_errors(said(rows), beside).kind] == ["bad_places", "", "wrong_classes", ""]


def test_two_models_are_compared_on_the_same_draws_of_images() -> None:
    targets = [objects(THERE, (60, 60, 1)) for _ in range(30)]
    right = [RIGHT, (60.0, 60.0, 1, 0.7)]
    one = said(*[right[:1] if i % 3 else right for i in range(30)])  # misses many
    two = said(*[right[:1] if i % 3 or i == 0 else right for i in range(30)])  # and one more
    alone = [detection_errors(outputs, targets, NAMES) for outputs in (one, two)]
    change = detection_errors(two, targets, NAMES, against=one)
    missed = change["missed_objects"]
    assert missed.n == 30
    assert missed.value == pytest.approx(map50(one, targets) - map50(two, targets))
    for kind, m in change.items():
        assert m.value == pytest.approx(alone[1][kind].value - alone[0][kind].value)
    assert missed.high - missed.low < 0.7 * (alone[0]["missed_objects"].high - alone[0]["missed_objects"].low)  # type: ignore[operator]
    assert all((m.value, m.low, m.high) == (0, 0, 0) for m in detection_errors(one, targets, NAMES, against=one).values())


def test_crowds_are_neither_found_nor_missed() -> None:
    targets = [objects(THERE, (60, 60, 0), crowd=(1,))]
    errors = find_errors(said([RIGHT, (62.0, 60.0, 0, 0.8), (58.0, 61.0, 0, 0.7)]), targets)
    assert (errors.kind == -1).all()
    assert not errors.missed.any()


def test_all_detections_and_objects_are_accounted_for() -> None:
    rng = np.random.default_rng(0)
    targets, rows = [], []
    for _ in range(40):
        placed = [(float(x), float(y), int(k)) for x, y, k in zip(*rng.integers(0, 80, (2, 4)), rng.integers(0, 3, 4), strict=True)]
        targets.append(objects(*placed))
        near = [
            (*(np.array((x, y)) + rng.normal(0, 8, 2)).clip(0, 80).tolist(), int(rng.choice([k, 0])), float(rng.random()))
            for x, y, k in placed
        ]
        rows.append(sorted(near, key=lambda row: -row[3]))
    errors = find_errors(said(*rows), targets)
    wrong = ~errors.matches.found[0]
    assert (errors.kind[wrong] >= 0).all()
    assert (errors.kind[~wrong] == -1).all()
    assert len(wrong) == 160
    found, meant = errors.matches.partner[0, ~wrong], errors.object[np.isin(errors.kind, [KINDS.index(kind) for kind in MEANT])]
    accounted = [int(g in found or g in meant) + int(errors.missed[g]) for g in range(160)]
    assert accounted == [1] * 160  # found, meant or missed
    assert len(set(errors.kind[wrong].tolist())) >= 3
