"""When outputs are the same: the last bit may exchange boxes or tip pixels over, a lost object or a shifted one is a difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planish.export.checks.agreement import compact_outputs, differences, disagreement

TOLD = 0.95 + 0.9 + 0.8 + 0.7 + 0.5 + 0.31


def detections(seed: int = 0, masks: bool = True) -> dict[str, Any]:
    """Two images with six objects each, no two alike, one of them hardly sure; the rest of the ten rows is nothing."""
    rng = np.random.default_rng(seed)
    boxes, scores = np.zeros((2, 10, 4), np.float32), np.zeros((2, 10), np.float32)
    for image in range(2):
        for row in range(6):
            left, top = row % 3 / 3 + 0.02, row // 3 / 2 + 0.02
            boxes[image, row] = [left, top, left + rng.uniform(0.15, 0.25), top + rng.uniform(0.2, 0.4)]
    scores[:, :6] = [0.95, 0.9, 0.8, 0.7, 0.5, 0.31]
    found = {"boxes": boxes, "scores": scores, "labels": rng.integers(0, 3, (2, 10))}
    if masks:
        y, x = np.mgrid[:32, :32][..., None, None] / 32
        inside = (x >= boxes[..., 0]) & (x < boxes[..., 2]) & (y >= boxes[..., 1]) & (y < boxes[..., 3])
        found["masks"] = inside.transpose(2, 3, 0, 1).astype(np.float32)
    return found


def changed(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: values.copy() for name, values in outputs.items()}


def test_the_same_is_the_same() -> None:
    assert disagreement(detections(), detections()) == 0
    nothing = {"boxes": np.zeros((1, 5, 4)), "scores": np.zeros((1, 5)), "labels": np.zeros((1, 5), int)}
    assert disagreement(nothing, nothing) == 0
    assert disagreement({"logits": np.zeros((2, 3))}, {"logits": np.zeros((2, 3))}) == 0


def test_rows_may_change_places_and_what_is_less_sure_may_come_and_go() -> None:
    expected, found = detections(), detections()
    for name in found:
        found[name][:, [0, 1, 2, 3, 4, 5]] = found[name][:, [1, 0, 2, 4, 3, 5]]
    found["scores"][:, 5] = 0.302  # nearly at the limit
    found["scores"][:, 7] = 0.3
    found["boxes"][:, 7] = [0, 0, 1, 1]
    assert disagreement(expected, found) == pytest.approx(0.008 / TOLD, rel=1e-3)
    found["scores"][:, 5] = 0  # gone
    assert disagreement(expected, found) == pytest.approx(0.01 / TOLD, rel=1e-3)


@pytest.mark.parametrize(
    ("what", "share"),
    [
        ("score", 0.05 / TOLD), ("corner", 0.95 * 0.02 / TOLD), ("place", 2 * 0.65 / TOLD), ("label", 2 * 0.65 / TOLD),
        ("mask", 0.95 / 2 / TOLD), ("more", 0.3 / (TOLD + 0.3)),
    ],
)  # fmt: skip
def test_what_is_different(what: str, share: float) -> None:
    expected, found = detections(), detections()
    if what == "score":
        found["scores"][1, 0] -= 0.05
    elif what == "corner":
        found["boxes"][1, 0, 2] += 0.02
    elif what == "place":
        found["boxes"][1, 0] += 0.05
    elif what == "label":
        found["labels"][1, 0] += 1
    elif what == "mask":
        found["masks"][1, 0] *= np.arange(32) % 2
    else:
        found["scores"][1, 6], found["boxes"][1, 6] = 0.6, [0, 0, 1, 1]
    apart = differences(expected, found)
    assert list(apart) == ["scores"]
    assert apart["scores"].shares[0] == 0
    assert apart["scores"].shares[1] == pytest.approx(share, rel=0.1 if what == "mask" else 1e-4)
    assert disagreement(expected, found) == pytest.approx(apart["scores"].shares[1] / 2)
    assert disagreement(found, expected) == pytest.approx(disagreement(expected, found))


def test_a_full_list_may_end_differently() -> None:
    """Of a thousand equally good ones the hundredth is not told."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.9, (1, 11, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 0.05], axis=2)
    scores = np.linspace(0.6, 0.5, 11, dtype=np.float32)[None]
    scores[0, 10] = scores[0, 9] - 1e-6
    labels = np.zeros((1, 11), int)
    ours = {"boxes": boxes[:, :10], "scores": scores[:, :10], "labels": labels[:, :10]}
    rows = [*range(9), 10]
    theirs = {"boxes": boxes[:, rows], "scores": scores[:, rows], "labels": labels[:, rows]}
    assert disagreement(ours, theirs) < 1e-5


def test_tiny_boxes_and_masks_may_differ_by_a_pixel() -> None:
    box = np.array([[[0.5, 0.5, 0.505, 0.505]]], np.float32)
    expected = {"boxes": box, "scores": np.array([[0.9]]), "labels": np.array([[0]]), "masks": np.zeros((1, 1, 8, 8), np.float32)}
    found = changed(expected)
    expected["masks"][0, 0, 4, 4:6], found["masks"][0, 0, 4, 4] = 1, 1
    found["boxes"] = box + np.float32(0.004)
    assert disagreement(expected, found) == pytest.approx(0.004, abs=1e-5)


def test_of_two_in_the_same_box_each_has_the_counterpart_with_its_mask() -> None:
    box = np.tile(np.array([0.1, 0.1, 0.9, 0.9], np.float32), (1, 2, 1))
    masks = np.zeros((1, 2, 16, 16), np.float32)
    masks[0, 0, :8], masks[0, 1, 8:] = 1, 1
    expected = {"boxes": box, "scores": np.array([[0.9, 0.8]]), "labels": np.array([[1, 1]]), "masks": masks}
    found = expected | {"scores": np.array([[0.86, 0.85]]), "masks": masks[:, ::-1]}
    assert disagreement(expected, found) == pytest.approx((0.05 + 0.06) / 1.71)


def test_label_maps_are_alike_where_99_percent_are() -> None:
    rng = np.random.default_rng(0)
    expected = {"classes": rng.integers(0, 3, (2, 20, 50), np.uint8), "confidence": np.full((2, 20, 50), 0.8, np.float32)}
    found = changed(expected)
    found["classes"][1, 0, :20] += 1
    assert disagreement(expected, found) == 0
    found["classes"][1, 0, 20] += 1
    assert differences(expected, found)["classes"].shares.tolist() == [0, 0.021]
    assert disagreement(expected, found) == 0.0105
    found["confidence"][0] -= 0.04
    assert differences(expected, found)["confidence"].shares == pytest.approx([0.05, 0], abs=1e-6)
    assert disagreement(expected, found) == pytest.approx(0.025, abs=1e-6)


def test_numbers_are_shares_of_the_largest() -> None:
    expected = {"logits": np.array([[1.0, -4.0], [2.0, 0.0]])}
    assert disagreement(expected, {"logits": np.array([[1.0, -4.0], [2.0, 1.0]])}) == 0.25
    found = {"logits": np.array([[np.nan, -4.0], [2.0, 0.0]])}
    assert differences(expected, found)["logits"].shares.tolist() == [np.inf, 0]


def test_what_is_missing_or_of_another_shape_or_no_number_never_agrees() -> None:
    expected = detections()
    assert disagreement(expected, {"boxes": expected["boxes"]}) == np.inf
    assert disagreement(expected, expected | {"masks": expected["masks"][:, :, :16]}) == np.inf
    for name in ("boxes", "scores"):
        found = changed(expected)
        found[name][0, 0] = np.nan
        assert disagreement(expected, found) == np.inf


def test_what_is_kept_of_outputs_agrees_with_them_and_needs_little_room() -> None:
    rng = np.random.default_rng(0)
    full = detections()
    full["masks"] = (full["masks"] * rng.uniform(0.55, 1, full["masks"].shape)).astype(np.float32)
    kept = compact_outputs(full)
    assert kept["masks"].dtype == bool
    assert disagreement(kept, full) == disagreement(kept, compact_outputs(full)) == 0
    maps = {"classes": rng.integers(0, 3, (2, 20, 50), np.uint8), "confidence": rng.random((2, 20, 50), np.float32)}
    assert disagreement(compact_outputs(maps), maps) < 2e-4
    assert compact_outputs({"logits": full["scores"]})["logits"] is full["scores"]
