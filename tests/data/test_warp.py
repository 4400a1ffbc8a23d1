"""Geometry of batches, against torchvision on one image at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from planish.data.augmentation.warp import affine_matrices, crop_matrices, random_boxes, warp


def smooth(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    noise = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return F.gaussian_blur(noise, [5, 5], [1.0, 1.0])


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 21, 34)])
def test_each_image_moves_as_torchvision_moves_it(channels: int, height: int, width: int) -> None:
    degrees = torch.tensor([0.0, 30.0, -75.0, 0.0, 0.0, 20.0, 0.0])
    factor = torch.tensor([1.0, 1.0, 1.0, 1.3, 1.0, 0.8, 1.0])
    shear = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, -15.0, 0.0])
    shift = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [4.0, -3.0], [-5.0, 2.0]])
    images = smooth(len(degrees), channels, height, width)
    out = warp(images.float(), affine_matrices(degrees, factor, shear, shift)).round()
    for i, image in enumerate(images):
        expected = F.affine(
            image, float(degrees[i]), shift[i].tolist(), float(factor[i]), [float(shear[i]), 0.0], InterpolationMode.BILINEAR
        )
        assert (out[i] - expected.float()).abs().max() <= 1


def test_quarter_turns_and_nothing_are_exact() -> None:
    images = smooth(3, 3, 32, 32)
    degrees, one, none = torch.tensor([0.0, 90.0, 180.0]), torch.ones(3), torch.zeros(3)
    out = warp(images.float(), affine_matrices(degrees, one, none, torch.zeros(3, 2)))
    for turned, image, times in zip(out, images, (0, -1, -2), strict=True):
        assert torch.allclose(turned, torch.rot90(image, times, (1, 2)).float(), atol=0.02)


@pytest.mark.parametrize(("top", "left", "tall", "wide"), [(0, 0, 24, 36), (3, 5, 12, 18), (10, 20, 14, 9)])
def test_a_crop_fills_the_image_as_torchvision_does_it(top: int, left: int, tall: int, wide: int) -> None:
    height, width = 24, 36
    images = smooth(2, 3, height, width)
    boxes = torch.tensor([[top / height, left / width, tall / height, wide / width]]).expand(2, -1)
    out = warp(images.float(), crop_matrices(boxes, height, width)).round()
    expected = F.resized_crop(images, top, left, tall, wide, [height, width], antialias=True).float()
    y, x = math.ceil(height / tall / 2), math.ceil(width / wide / 2)  # at its rim torchvision knows nothing of what lies beyond the box
    assert (out - expected)[..., y : height - y, x : width - x].abs().max() <= 1


def test_what_comes_from_outside_is_black() -> None:
    images = torch.full((1, 1, 10, 20), 200.0)
    one, none = torch.ones(1), torch.zeros(1)
    out = warp(images, affine_matrices(none, one, none, torch.tensor([[5.0, -2.0]])))
    assert out[..., :5].max() < 1e-3
    assert out[..., 8:, :].max() < 1e-3
    assert torch.allclose(out[..., :8, 5:], images[..., :8, 5:], atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(1.01, 4), st.integers(0, 100))
def test_boxes_lie_inside_and_have_the_area_asked_for(one: float, other: float, stretch: float, seed: int) -> None:
    low, high = sorted((one, other))
    torch.manual_seed(seed)
    top, left, tall, wide = random_boxes(200, low, high, stretch).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert max((top + tall).max(), (left + wide).max()) <= 1 + 1e-5
    area, ratio = tall * wide, wide / tall
    assert area.min() >= low - 1e-4
    assert area.max() <= high + 1e-4
    assert ratio.log().abs().max() <= math.log(stretch) + 1e-4


def test_boxes_differ_and_reach_every_corner() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(2000, 0.25, 0.25, 4 / 3)
    room = 1 - boxes[:, 2:]
    assert ((boxes[:, :2] / room).mean(0) - 0.5).abs().max() < 0.03
    assert (boxes[:, :2] / room).min() < 0.01
    assert (boxes[:, :2] / room).max() > 0.99
