"""From run lengths to the masks of a batch: against pycocotools and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as run_lengths

from planish.data.targets import rasterise
from planish.data.targets.objects import Objects
from planish.data.targets.rasterise import label_targets, object_targets


def objects(masks: np.ndarray, crowd: list[bool] | None = None) -> Objects:
    count, height, width = masks.shape
    encoded = [run_lengths.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    boxes = np.array([run_lengths.toBbox(e) for e in encoded]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        (boxes / [width, height, width, height]).astype(np.float32),
        np.arange(count),
        height,
        width,
        np.array(crowd or [False] * count, dtype=bool),
        masks.sum((1, 2)).astype(np.float64),
        tuple(encoded),
    )


def blobs(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    centres = rng.uniform(0.2, 0.8, (count, 2, 1, 1))
    return (y / height - centres[:, 0]) ** 2 + (x / width - centres[:, 1]) ** 2 < rng.uniform(0.1, 0.3, (count, 1, 1)) ** 2


@pytest.mark.parametrize(("height", "width", "size"), [(40, 60, (40, 60)), (40, 60, (20, 15)), (31, 57, (64, 64)), (300, 200, (32, 32))])
@pytest.mark.parametrize("together", [10**7, 1])
def test_masks_are_those_of_the_reference_shrunk_to_the_nearest(
    height: int, width: int, size: tuple[int, int], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterise, "_MANY_PIXELS", together)
    masks = blobs(3, height, width)
    [target] = object_targets([objects(masks)], size)
    expected = [np.asarray(Image.fromarray(m).resize(size[::-1], Image.Resampling.NEAREST)) for m in masks]
    assert (target["masks"].shape, target["masks"].dtype) == ((3, *size), torch.uint8)
    assert np.array_equal(target["masks"].numpy().astype(bool), np.stack(expected))
    assert target["labels"].tolist() == [0, 1, 2]


def test_crowds_are_left_out_and_nothing_is_fine() -> None:
    some, none = objects(blobs(3, 20, 30), [False, True, False]), objects(np.zeros((0, 20, 30)))
    one, other = object_targets([some, none], (8, 8))
    assert one["labels"].tolist() == [0, 2]
    assert (one["boxes"].shape, one["masks"].shape) == ((2, 4), (2, 8, 8))
    assert (other["boxes"].shape, other["labels"].shape, other["masks"].shape) == ((0, 4), (0,), (0, 8, 8))
    assert other["labels"].dtype == torch.int64
    assert "masks" not in object_targets([some])[0]


def test_a_mask_too_small_for_any_pixel_keeps_one() -> None:
    masks = np.zeros((1, 100, 100), bool)
    masks[0, 41, 73] = True
    [target] = object_targets([objects(masks)], (10, 10))
    assert target["masks"].nonzero().tolist() == [[0, 4, 7]]


def test_label_maps_of_several_sizes() -> None:
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 256, (h, w)).astype(np.uint8) for h, w in ((16, 16), (40, 25), (7, 90))]
    result = label_targets(maps, 16, 20)
    assert (result.shape, result.dtype) == ((3, 16, 20), torch.int64)
    for found, labels in zip(result, maps, strict=True):
        exact = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None].double(), (16, 20), mode="nearest-exact")
        assert torch.equal(found, exact[0, 0].long())
