"""Difficult objects and crowds: neither right nor wrong, as Pascal VOC's own evaluation has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.data.targets.objects import Objects
from planish.evaluation.errors.detection import detection_errors
from planish.evaluation.metrics.detection import average_precision_by_class, detection_metrics

NAMES = ("cat", "dog")


def scene(rng: np.random.Generator) -> tuple[Objects, list[tuple[np.ndarray, float, int]]]:
    """Objects that do not overlap, a third of them difficult; detections near most of them, on difficult ones several, and elsewhere."""
    corners = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)[rng.permutation(25)[:12]] / 5
    boxes = np.concatenate([corners + 0.02, corners + 0.17], 1)
    labels, difficult = rng.integers(0, 2, 12), rng.random(12) < 0.35
    said: list[tuple[np.ndarray, float, int]] = []
    for box, label, hard in zip(boxes, labels, difficult, strict=True):
        times = int(rng.integers(0, 4 if hard else 3))
        said += [(box + rng.normal(0, 0.012, 4), rng.random(), int(label if rng.random() < 0.85 else 1 - label)) for _ in range(times)]
    for _ in range(4):
        corner = rng.uniform(0, 0.8, 2)
        said.append((np.concatenate([corner, corner + 0.15]), rng.random(), int(rng.integers(2))))
    objects = Objects(boxes.astype(np.float32), labels, 100, 100, np.zeros(12, bool), np.full(12, 225.0), None, difficult)
    return objects, said


def outputs_of(said: list[list[tuple[np.ndarray, float, int]]]) -> dict[str, Any]:
    most = max(map(len, said))
    outputs = {"boxes": np.zeros((len(said), most, 4), np.float32), "scores": np.zeros((len(said), most), np.float32)}
    outputs["labels"] = np.zeros((len(said), most), np.int64)
    for i, rows in enumerate(said):
        for k, (box, score, label) in enumerate(rows):
            outputs["boxes"][i, k], outputs["scores"][i, k], outputs["labels"][i, k] = box, score, label
    return outputs


def voc_precision_recall(targets: list[Objects], outputs: dict[str, Any], label: int) -> tuple[np.ndarray, np.ndarray]:
    """As the VOC devkit's ``VOCevaldet.m``: what is found best is a difficult object: nothing; found before: wrong."""
    rows = [
        (float(s), i, k)
        for i, each in enumerate(outputs["scores"])
        for k, s in enumerate(each)
        if s > 0 and outputs["labels"][i, k] == label
    ]
    taken: set[tuple[int, int]] = set()
    right, wrong = [], []
    for _, i, k in sorted(rows, key=lambda row: -row[0]):
        box, best, which = outputs["boxes"][i, k].astype(float), -1.0, -1
        for j in np.flatnonzero(targets[i].labels == label):
            other = targets[i].boxes[j].astype(float)
            width, height = (min(box[2 + a], other[2 + a]) - max(box[a], other[a]) for a in (0, 1))
            shared = max(0.0, width) * max(0.0, height)
            union = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
            if shared / union > best:
                best, which = shared / union, int(j)
        difficult = targets[i].difficult
        assert difficult is not None
        if best >= 0.5 and difficult[which]:
            continue
        hit = best >= 0.5 and (i, which) not in taken
        taken |= {(i, which)} if hit else set()
        right.append(hit)
        wrong.append(not hit)
    count = sum(int(((t.labels == label) & ~t.difficult).sum()) for t in targets)  # type: ignore[operator]
    found, lost = np.cumsum(right), np.cumsum(wrong)
    return found / np.maximum(found + lost, 1), found / count


@pytest.mark.parametrize("seed", range(6))
def test_difficult_objects_count_as_in_vocs_own_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [scene(rng) for _ in range(6)]
    targets, outputs = [objects for objects, _ in scenes], outputs_of([said for _, said in scenes])
    expected = []
    for label in range(2):
        precision, recall = voc_precision_recall(targets, outputs, label)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
        expected.append(np.mean([envelope[k] if k < len(envelope) else 0.0 for k in at]))
    assert detection_metrics(outputs, targets, NAMES)["map_50"].value == pytest.approx(100 * np.mean(expected), abs=1e-6)


def one_image(*, ignored: str, found: bool) -> tuple[list[Objects], dict[str, Any]]:
    """A cat that counts and one that is ignored; the first is found, the second twice or not at all."""
    boxes = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.9]], np.float32)
    flags = np.array([False, True])
    crowd, difficult = (flags, None) if ignored == "crowd" else (np.zeros(2, bool), flags)
    targets = [Objects(boxes, np.zeros(2, np.int64), 100, 100, crowd, np.array([400.0, 900.0]), None, difficult)]
    said = [(boxes[0], 0.5, 0)] + [(boxes[1], 0.9, 0), (boxes[1], 0.8, 0)] * found
    return targets, outputs_of([said])


@pytest.mark.parametrize("ignored", ["crowd", "difficult"])
@pytest.mark.parametrize("found", [False, True])
def test_what_is_ignored_costs_nothing_found_or_not(ignored: str, found: bool) -> None:
    targets, outputs = one_image(ignored=ignored, found=found)
    metrics = detection_metrics(outputs, targets, NAMES)
    assert [metrics[name].value for name in ("map", "map_50", "mar_100")] == pytest.approx([100] * 3)
    assert {m.value for m in detection_errors(outputs, targets, NAMES).values()} == {0}
    assert sum(m.n for m in detection_errors(outputs, targets, NAMES).values()) == 0, "neither missed, nor doubles, nor background"
    assert average_precision_by_class(outputs, targets, NAMES)["cat"].n == 1


def test_a_detection_inside_a_difficult_object_that_covers_little_of_it_is_wrong_and_in_a_crowd_it_is_not() -> None:
    for ignored, wrong in (("crowd", 0), ("difficult", 1)):
        targets, outputs = one_image(ignored=ignored, found=True)
        outputs["boxes"][0, 1:] = [0.6, 0.6, 0.7, 0.7]
        outputs["scores"][0, 2] = 0
        assert (
            detection_errors(outputs, targets, NAMES)["background"].n + detection_errors(outputs, targets, NAMES)["bad_places"].n == wrong
        )
