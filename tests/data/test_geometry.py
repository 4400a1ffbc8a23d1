"""Boxes, masks and label maps move with their images: against torchvision's tv_tensors, and against what was painted into the image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from planish.data.augmentation.warp import affine_matrices, crop_matrices
from planish.data.targets.geometry import IGNORED, ImageBatch, ObjectBatch, covered, flip_matrices, move_labels, move_objects
from planish.errors import TrainingError

HEIGHT, WIDTH = 48, 64


def one(boxes: list[list[float]], masks: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.arange(len(boxes))}
    return target if masks is None else target | {"masks": masks}


def painted(box: list[int], height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    image = torch.zeros(height, width)
    image[box[1] : box[3], box[0] : box[2]] = 1
    return image


def shares(box: list[int]) -> list[float]:
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


def matrix(degrees: float = 0, factor: float = 1, shear: float = 0, right: float = 0, down: float = 0) -> torch.Tensor:
    angle, scale, lean = (torch.tensor([float(v)]) for v in (degrees, factor, shear))
    return affine_matrices(angle, scale, lean, torch.tensor([[float(right), float(down)]]))


def test_together_and_apart_again() -> None:
    targets = [one([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]), one([]), one([[0.5, 0.5, 0.6, 0.7]])]
    batch = ObjectBatch.of(targets)
    assert batch.image.tolist() == [0, 0, 2]
    for before, after in zip(targets, batch.split(), strict=True):
        assert torch.equal(before["boxes"], after["boxes"])
        assert torch.equal(before["labels"], after["labels"])
    taken = batch.taken(torch.tensor([2, 1, 0, 0]))
    assert [t["labels"].tolist() for t in taken.split()] == [[0], [], [0, 1], [0, 1]]
    assert ObjectBatch.of([]).split() == []
    assert [len(t["boxes"]) for t in ObjectBatch.of([one([]), one([])]).split()] == [0, 0]


def test_masks_of_some_or_of_several_sizes_are_refused() -> None:
    mask = torch.ones(1, 4, 4, dtype=torch.uint8)
    with pytest.raises(TrainingError, match="masks of 1 of 2 images"):
        ObjectBatch.of([one([[0, 0, 1, 1]], mask), one([[0, 0, 1, 1]])])
    with pytest.raises(TrainingError, match="one size"):
        ObjectBatch.of([one([[0, 0, 1, 1]], mask), one([[0, 0, 1, 1]], torch.ones(1, 4, 5, dtype=torch.uint8))])


@pytest.mark.parametrize(
    ("degrees", "factor", "shear", "right", "down"),
    [(0, 1, 0, 0, 0), (30, 1, 0, 0, 0), (-12, 0.8, 0, 3, -2), (0, 1.3, 15, -4, 5), (90, 0.7, 0, 0, 0), (7, 1.1, -8, 2, 2)],
)
def test_boxes_and_masks_move_as_torchvision_moves_them(degrees: float, factor: float, shear: float, right: int, down: int) -> None:
    corners = [[20, 12, 38, 30], [2, 3, 9, 40], [50, 30, 64, 48]]
    masks = torch.stack([painted(c) for c in corners]).to(torch.uint8)
    moved = move_objects(ObjectBatch.of([one([shares(c) for c in corners])]), matrix(degrees, factor, shear, right, down), HEIGHT, WIDTH)
    boxes = tv_tensors.BoundingBoxes(torch.tensor(corners).float(), format="XYXY", canvas_size=(HEIGHT, WIDTH), clamping_mode=None)
    expected = F.affine(boxes, degrees, [right, down], factor, [shear, 0.0]).as_subclass(torch.Tensor)
    inside = torch.stack([expected[:, 0::2].clamp(0, WIDTH), expected[:, 1::2].clamp(0, HEIGHT)], 2).flatten(1)
    area = (inside[:, 2:] - inside[:, :2]).prod(1) / (expected[:, 2:] - expected[:, :2]).prod(1)
    kept = area >= 0.25
    assert moved.labels.tolist() == kept.nonzero()[:, 0].tolist()
    assert torch.allclose(moved.boxes * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]), inside[kept], atol=0.02)
    with_masks = move_objects(
        ObjectBatch.of([one([shares(c) for c in corners], masks)]), matrix(degrees, factor, shear, right, down), HEIGHT, WIDTH
    )
    turned = F.affine(tv_tensors.Mask(masks), degrees, [right, down], factor, [shear, 0.0])[with_masks.labels]
    assert with_masks.masks is not None
    assert (turned != with_masks.masks).sum((1, 2)).max() <= 2  # a pixel's centre on an edge may fall on either side


geometries = st.builds(
    matrix,
    degrees=st.floats(-180, 180),
    factor=st.floats(0.4, 2.5),
    shear=st.floats(-30, 30),
    right=st.floats(-20, 20),
    down=st.floats(-20, 20),
)
rectangles = st.builds(
    lambda x, y, w, h: [x, y, min(WIDTH, x + w), min(HEIGHT, y + h)],
    st.integers(0, WIDTH - 3),
    st.integers(0, HEIGHT - 3),
    st.integers(3, WIDTH),
    st.integers(3, HEIGHT),
)


@settings(max_examples=150, deadline=None)
@given(rectangles, geometries, st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_what_was_painted_is_still_covered(box: list[int], move: torch.Tensor, flip: bool, with_mask: bool, stride: int) -> None:
    box = [v - v % stride for v in box]  # the smaller mask is exact, too
    mask = painted(box)
    small = mask.view(HEIGHT // stride, stride, WIDTH // stride, stride)[:, 0, :, 0]
    target = one([shares(box)], small[None].to(torch.uint8) if with_mask else None)
    moved = move @ flip_matrices(torch.tensor([flip]), torch.tensor([False]))
    result = ImageBatch(mask[None, None] * 255, ObjectBatch.of([target]), None).moved(moved)
    assert result.objects is not None
    colour = result.images[0, 0]
    if not len(result.objects.labels):
        share = colour.sum() / 255 / (mask.sum() * torch.linalg.det(moved[0, :2, :2]).abs())
        # of a turned box it is the upright box around it that counts
        assert share < (0.35 if with_mask else 0.7) or colour.sum() < 255 * 30 * stride**2
        return
    left, top, right, bottom = (result.objects.boxes[0] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).tolist()
    ys, xs = (colour > 140).nonzero().unbind(1)
    slack = 0.01 if not with_mask else 0.05
    if len(xs):
        assert xs.min() + 0.5 >= left - slack
        assert xs.max() + 0.5 <= right + slack
        assert ys.min() + 0.5 >= top - slack
        assert ys.max() + 0.5 <= bottom + slack
    assert min(left, top) >= -1e-4
    assert right <= WIDTH + 1e-4
    assert bottom <= HEIGHT + 1e-4
    if with_mask and stride == 1:  # and the box reaches no further than what is seen
        assert result.objects.masks is not None
        seen = result.objects.masks[0].bool()
        assert (colour[seen] >= 50).float().mean() > 0.9
        assert (seen[colour > 200]).all()
        if len(xs):
            assert left >= xs.min() - 4  # a sharp tip is too faint to be seen
            assert right <= xs.max() + 5
            assert top >= ys.min() - 4
            assert bottom <= ys.max() + 5


def test_upright_boxes_stay_exact_with_masks() -> None:
    """Cropping and mirroring: the box is that of the arithmetic, not one rounded to the mask's pixels."""
    box = [13, 9, 31, 27]
    masks = painted(box)[None].to(torch.uint8)
    cut = crop_matrices(torch.tensor([[0.1, 0.15, 0.7, 0.6]]), HEIGHT, WIDTH)
    moved = move_objects(
        ObjectBatch.of([one([shares(box)], masks)]), flip_matrices(torch.tensor([True]), torch.tensor([False])) @ cut, HEIGHT, WIDTH
    )
    left, top, right, bottom = shares(box)
    expected = torch.tensor([1 - (right - 0.15) / 0.6, (top - 0.1) / 0.7, 1 - (left - 0.15) / 0.6, (bottom - 0.1) / 0.7])
    assert torch.allclose(moved.boxes[0], expected, atol=1e-5)


@pytest.mark.parametrize(("right", "kept"), [(14, True), (16, False), (-58, True), (-60, False)])
def test_a_quarter_must_be_left(right: int, kept: bool) -> None:
    box = [44, 10, 64, 30]  # 20 wide
    for masks in (None, painted(box)[None].to(torch.uint8)):
        moved = move_objects(ObjectBatch.of([one([shares(box)], masks)]), matrix(right=right), HEIGHT, WIDTH)
        assert len(moved.labels) == kept


def test_a_window_cuts_boxes_and_masks() -> None:
    box = [20, 12, 40, 32]
    masks = painted(box)[None].to(torch.uint8)
    moved = move_objects(ObjectBatch.of([one([shares(box)], masks)]), matrix(), HEIGHT, WIDTH, window=(0, 0, 24, 32))
    assert torch.allclose(moved.boxes[0], torch.tensor(shares([20, 12, 32, 24])))
    assert moved.masks is not None
    assert torch.equal(moved.masks[0].float(), painted([20, 12, 32, 24]))


def test_what_is_covered_is_cut_out_and_nothing_else_changes() -> None:
    corners = [[10, 10, 30, 20], [32, 10, 40, 20], [12, 30, 30, 40]]
    masks = torch.stack([painted(c) for c in corners]).to(torch.uint8)
    boxes = [shares(corners[0]), shares(corners[1]), [0.1, 0.5, 0.9, 1.0]]  # the last reaches beyond its mask
    hidden = painted([16, 0, 39, 25])[None].to(torch.uint8)
    objects = covered(ObjectBatch.of([one(boxes, masks)]), hidden, HEIGHT, WIDTH)
    assert objects.labels.tolist() == [0, 2]
    assert torch.allclose(objects.boxes, torch.tensor([shares([10, 10, 16, 20]), boxes[2]]))
    assert objects.masks is not None
    assert torch.equal(objects.masks[0].float(), painted([10, 10, 16, 20]))


def test_a_thin_object_keeps_its_box_though_its_mask_falls_apart() -> None:
    """One pixel high, turned and shrunk: the nearest pixels hit hardly anything of it, and the box is still that of the arithmetic."""
    box = [4, 20, 60, 21]
    masks = painted(box)[None].to(torch.uint8)
    moved = move_objects(ObjectBatch.of([one([shares(box)], masks)]), matrix(40, 0.5), HEIGHT, WIDTH)
    bare = move_objects(ObjectBatch.of([one([shares(box)])]), matrix(40, 0.5), HEIGHT, WIDTH)
    assert torch.allclose(moved.boxes, bare.boxes, atol=1e-4)


def test_a_mask_too_thin_for_any_pixel_keeps_one() -> None:
    box = [20, 20, 23, 21]
    target = one([shares(box)], painted(box)[None].to(torch.uint8))
    for shift in torch.linspace(0, 2, 21).tolist():
        moved = move_objects(ObjectBatch.of([target]), matrix(45, 0.5, right=shift), HEIGHT, WIDTH)
        assert moved.masks is not None
        assert len(moved.labels) == 1
        y, x = moved.masks[0].nonzero()[0].tolist()
        left, top, right, bottom = (moved.boxes[0] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).tolist()
        assert left - 1 < x < right
        assert top - 1 < y < bottom


def test_a_row_of_the_mask_that_runs_through_the_whole_image() -> None:
    """Turned by a quarter and enlarged, the first columns of the image are one row of the mask: its edges are not seen, its inside is."""
    box = [19, 2, 49, 32]
    move = matrix(90, 2.394, right=-33.2, down=-15.8)
    moved = move_objects(ObjectBatch.of([one([shares(box)], painted(box)[None].to(torch.uint8))]), move, HEIGHT, WIDTH)
    bare = move_objects(ObjectBatch.of([one([shares(box)])]), move, HEIGHT, WIDTH)
    assert torch.allclose(moved.boxes, bare.boxes, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(geometries, st.sampled_from([1, 2]))
def test_label_maps_move_with_the_image(move: torch.Tensor, stride: int) -> None:
    """Class c is painted in the grey level 40 (c + 1), in wide stripes; far from their edges the two must agree."""
    maps = (torch.arange(HEIGHT)[:, None] // 16 + torch.arange(WIDTH)[None] // 16) % 4
    image = (40.0 * (maps + 1))[None, None]
    small = maps[::stride, ::stride][None]
    result = ImageBatch(image, None, small).moved(move)
    assert result.maps is not None
    assert result.maps.shape == small.shape
    found = result.maps[0].repeat_interleave(stride, 0).repeat_interleave(stride, 1)
    level = result.images[0, 0]
    flat = torch.nn.functional.max_pool2d(level[None], 7, 1, 3)[0] == -torch.nn.functional.max_pool2d(-level[None], 7, 1, 3)[0]
    expected = torch.where(level == 0, IGNORED, (level / 40).round().long() - 1)
    assert torch.equal(found[flat], expected[flat])


def test_label_maps_move_as_torchvision_moves_them() -> None:
    maps = torch.randint(0, 255, (1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    expected = F.affine(tv_tensors.Mask(maps), 20.0, [3, -2], 0.8, [5.0, 0.0], fill=IGNORED)
    assert (move_labels(maps, matrix(20, 0.8, 5, 3, -2), HEIGHT, WIDTH) != expected).float().mean() < 0.002
