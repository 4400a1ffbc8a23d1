"""Mosaic, mixup and copy-paste, told apart by the colours of what was painted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.data.augmentation import mixing
from planish.data.augmentation.operations import Operations, move_matrices
from planish.data.targets.geometry import IGNORED, ImageBatch, ObjectBatch
from planish.errors import TrainingError

SIDE = 48


def eye(count: int) -> torch.Tensor:
    return torch.eye(3).expand(count, 3, 3)


def scene(boxes: list[list[int]], stride: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Rectangles, each of its own grey level 60, 120, ...: image (3, S, S), target with labels 0, 1, ..., label map (0 for the ground)."""
    grey = torch.zeros(SIDE, SIDE)
    for i, (left, top, right, bottom) in enumerate(boxes):
        grey[top:bottom, left:right] = 60.0 * (i + 1)
    masks = torch.stack([(grey == 60.0 * (i + 1)) for i in range(len(boxes))]) if boxes else torch.zeros(0, SIDE, SIDE)
    target = {
        "boxes": torch.tensor(boxes).reshape(-1, 4) / SIDE,
        "labels": torch.arange(len(boxes)),
        "masks": masks.to(torch.uint8)[:, ::stride, ::stride],
    }
    return grey.expand(3, -1, -1), target, (grey / 60).long()


def batch(scenes: list[list[list[int]]], stride: int = 1, *, masks: bool = True, maps: bool = False) -> ImageBatch:
    made = [scene(boxes, stride) for boxes in scenes]
    images = torch.stack([image for image, _, _ in made])
    if maps:
        return ImageBatch(images, None, torch.stack([labels for _, _, labels in made]))
    targets = [target if masks else {k: v for k, v in target.items() if k != "masks"} for _, target, _ in made]
    return ImageBatch(images, ObjectBatch.of(targets), None)


def near(grey: torch.Tensor, level: float) -> torch.Tensor:
    return (grey - level).abs() < 2


FOUR = [[[4, 4, 20, 20], [24, 24, 44, 44]], [[10, 2, 30, 18]], [], [[30, 6, 40, 40], [2, 30, 20, 46], [5, 5, 12, 25]]]
TURNING = Operations(rotate=30.0, scale=(0.8, 1.3), shift=0.1, flip=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([1, 2]), st.booleans())
def test_every_object_of_a_mosaic_is_in_its_box(seed: int, turning: bool, stride: int, masks: bool) -> None:
    torch.manual_seed(seed)
    mixed = mixing.mosaic(
        batch(FOUR, stride, masks=masks), torch.arange(4), (lambda n: move_matrices(TURNING, n, SIDE, SIDE)) if turning else eye
    )
    assert mixed.images.shape == (4, 3, SIDE, SIDE)
    assert mixed.objects is not None
    for image, target in zip(mixed.images[:, 0], mixed.objects.split(), strict=True):
        for number, (label, box) in enumerate(zip(target["labels"], target["boxes"] * SIDE, strict=True)):
            left, top, right, bottom = box.tolist()
            inside = near(image[int(top) : int(bottom) + 1, int(left) : int(right) + 1], 60.0 * (int(label) + 1))
            assert inside.any() or min(right - left, bottom - top) < 6
            if masks and stride == 1:
                seen = image[target["masks"][number].bool()]
                assert near(seen, 60.0 * (int(label) + 1)).float().mean() > 0.5 or len(seen) < 90  # all but its soft edge
        if not turning:  # what has a colour has a box that covers it, but for the quarters that were dropped
            for label in target["labels"].unique():
                level = near(image, 60.0 * (int(label) + 1))
                covered = torch.zeros_like(level)
                for box in target["boxes"][target["labels"] == label] * SIDE:
                    left, top, right, bottom = box.round().int().tolist()
                    covered[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
                assert (level & ~covered).sum() < 0.25 * 20 * 20 * 4


def test_a_mosaic_is_full_and_has_its_own_image() -> None:
    torch.manual_seed(0)
    levels = torch.arange(1, 5.0) * 50
    images = levels.view(4, 1, 1, 1).expand(4, 1, SIDE, SIDE)
    objects = ObjectBatch.of([{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * 4)
    several = 0
    for _ in range(20):
        mixed = mixing.mosaic(ImageBatch(images, objects, None), torch.tensor([1, 3]), eye)
        assert mixed.images.shape == (2, 1, SIDE, SIDE)
        assert mixed.images.min() > 49.9  # nothing is black
        several += len(mixed.images.round().unique()) > 2
        for own, image in zip((100, 200), mixed.images, strict=True):
            assert near(image, own).sum() >= 0.3 * 0.3 * SIDE**2
    assert several > 10


def test_maps_of_a_mosaic_agree_with_its_pixels() -> None:
    torch.manual_seed(1)
    for turning in (False, True):
        mixed = mixing.mosaic(
            batch(FOUR, maps=True), torch.arange(4), (lambda n: move_matrices(TURNING, n, SIDE, SIDE)) if turning else eye
        )
        assert mixed.maps is not None
        for image, labels in zip(mixed.images[:, 0], mixed.maps, strict=True):
            for label in range(1, 4):
                assert near(image[labels == label], 60.0 * label).float().mean().nan_to_num(1) > 0.5
            assert (labels[near(image, 0) & (labels != IGNORED)] <= 3).all()
        assert bool((mixed.maps == IGNORED).any()) == turning


@pytest.mark.parametrize("kind", ["boxes", "maps", "classes"])
def test_mixup_blends_images_and_keeps_both_targets(kind: str) -> None:
    images = torch.rand(4, 3, 8, 8) * 255
    targets = {
        "boxes": [{"boxes": torch.rand(i, 4), "labels": torch.arange(i)} for i in range(4)],
        "maps": torch.randint(0, 5, (4, 8, 8)),
        "classes": torch.arange(4),
    }[kind]
    torch.manual_seed(0)
    blended, mixed = mixing.mixup(images, targets, 1.0)
    for i in range(4):
        torch.testing.assert_close(blended[i], mixed.weight * images[i] + (1 - mixed.weight) * images[i - 1], atol=1e-3, rtol=0)
        assert (mixed.second[i] is targets[i - 1]) if kind == "boxes" else torch.equal(mixed.second[i], targets[i - 1])
    assert mixed.first is targets
    assert mixing.mixed_loss(lambda t: torch.tensor(1.0 if t is targets else 3.0), mixed) == pytest.approx(3 - 2 * mixed.weight)
    assert mixing.mixed_loss(lambda t: torch.tensor(1.0), targets) == 1


def test_copy_paste_covers_what_lies_behind() -> None:
    behind, front = [[4, 4, 44, 44], [20, 20, 30, 30]], [[18, 18, 34, 34]]  # the second is hidden wholly, the first has a hole
    before = batch([[behind[0]], front])
    assert before.objects is not None
    for seed in range(20):
        torch.manual_seed(seed)
        after = mixing.copy_paste(before, torch.tensor([0]))
        assert after.objects is not None
        target = after.objects.split()[0]
        if len(target["labels"]) == 1:
            assert torch.equal(after.images, before.images)
            continue
        assert torch.equal(after.images[1], before.images[1])
        first, second = target["masks"].bool()
        assert second.sum() == 16 * 16
        assert first.sum() == 40 * 40 - 16 * 16
        assert not (first & second).any()
        assert torch.allclose(target["boxes"] * SIDE, torch.tensor([[4.0, 4, 44, 44], [18, 18, 34, 34]]))
        return
    raise AssertionError("nothing was pasted in 20 draws")


def test_objects_hidden_by_others_are_gone_and_boxes_shrink() -> None:
    before = batch([[[20, 20, 30, 30], [4, 20, 24, 30]], [[18, 18, 34, 34]]], stride=2)
    torch.manual_seed(0)
    tries = (mixing.copy_paste(before, torch.tensor([0])) for _ in range(20))
    pasted = next(after for after in tries if not torch.equal(after.images, before.images))
    assert pasted.objects is not None
    target = pasted.objects.split()[0]
    assert target["labels"].tolist() == [1, 0]
    left, top, right, bottom = (target["boxes"][0] * SIDE).tolist()
    assert (left, top, bottom) == pytest.approx((4, 20, 30))
    assert right == pytest.approx(18, abs=0.51)  # a quarter of the mask's pixel


def test_what_needs_masks_or_boxes_says_so() -> None:
    rows = torch.tensor([0])
    with pytest.raises(TrainingError, match="copy_paste=0"):
        mixing.copy_paste(batch(FOUR, masks=False), rows)
    with pytest.raises(TrainingError, match="copy_paste=0"):
        mixing.copy_paste(batch(FOUR, maps=True), rows)


def test_one_image_alone_is_not_mixed_with_itself() -> None:
    alone = batch(FOUR[:1])
    assert mixing.copy_paste(alone, torch.tensor([0])) is alone
    assert mixing.mosaic(alone, torch.tensor([0]), eye).images.shape == alone.images.shape
