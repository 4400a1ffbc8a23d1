"""Colour, blur, noise and erasing of batches, against torchvision and the standard library, one image at a time."""

import colorsys
import math

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from planish.data.augmentation.pixels import add_noise, adjust_contrast, blur, brighten, erase, saturate, turn_hue

FACTORS = torch.tensor([0.0, 0.5, 1.0, 1.4, 2.0]).view(-1, 1, 1, 1)


def noise(count: int, channels: int, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("ours", "theirs"), [(brighten, F.adjust_brightness), (adjust_contrast, F.adjust_contrast)])
def test_brightness_and_contrast_agree_with_torchvision(ours, theirs, channels: int) -> None:
    images = noise(len(FACTORS), channels)
    expected = torch.stack([theirs(image / 255, float(factor)) for image, factor in zip(images, FACTORS, strict=True)])
    assert torch.allclose(ours(images, FACTORS), 255 * expected, atol=0.01)


def in_hsv(images: torch.Tensor, change) -> torch.Tensor:
    """Pixel by pixel, with the standard library."""
    out = images.clone()
    for n, image in enumerate(images):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                hsv = colorsys.rgb_to_hsv(*(float(v) / 255 for v in image[:, y, x]))
                out[n, :, y, x] = 255 * torch.tensor(colorsys.hsv_to_rgb(*change(n, *hsv)))
    return out


def test_saturation_is_that_of_hsv_and_stays_in_its_range() -> None:
    images = noise(len(FACTORS), 3)
    expected = in_hsv(images, lambda n, h, s, v: (h, min(1.0, s * float(FACTORS[n])), v))
    out = saturate(images, FACTORS)
    assert torch.allclose(out, expected, atol=0.01)
    assert out.min() >= -0.01
    assert torch.allclose(out[2], images[2], atol=1e-3)


def test_hue_is_that_of_hsv_and_goes_round() -> None:
    images, turns = noise(5, 3), torch.tensor([-0.5, -0.1, 0.0, 0.05, 0.5]).view(-1, 1, 1, 1)
    out = turn_hue(images, turns)
    assert torch.allclose(out, in_hsv(images, lambda n, h, s, v: ((h + float(turns[n])) % 1, s, v)), atol=0.02)
    theirs = torch.stack([F.adjust_hue(image / 255, float(turn)) for image, turn in zip(images, turns, strict=True)])
    assert torch.allclose(out, 255 * theirs, atol=0.02)
    assert torch.allclose(out[2], images[2], atol=1e-3)
    assert torch.allclose(turn_hue(images, torch.ones(5, 1, 1, 1)), images, atol=0.02)


def test_grey_images_have_no_colour_to_change() -> None:
    images = noise(5, 1)
    assert torch.equal(saturate(images, FACTORS), images)
    assert torch.equal(turn_hue(images, FACTORS), images)


@pytest.mark.parametrize("value", [0.0, 77.0, 255.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_constant_images_stay_finite_and_constant(value: float, channels: int) -> None:
    images = torch.full((len(FACTORS), channels, 8, 8), value)
    for change in (brighten, adjust_contrast, saturate, turn_hue, blur):
        out = change(images, FACTORS)
        assert torch.isfinite(out).all()
        assert (out.amax((1, 2, 3)) - out.amin((1, 2, 3))).max() < 1e-3
        if change is not brighten:
            assert torch.allclose(out, images, atol=0.03)  # the weights of grey add up to 0.9999


def test_blur_agrees_with_torchvision() -> None:
    images, sigma = noise(4, 3, 24, 31), torch.tensor([0.4, 1.0, 1.7, 2.0]).view(-1, 1, 1, 1)
    size = 2 * math.ceil(3 * 2.0) + 1
    expected = torch.stack([F.gaussian_blur(image, [size, size], [float(s)]) for image, s in zip(images, sigma, strict=True)])
    assert torch.allclose(blur(images, sigma), expected, atol=0.01)


def test_no_blur_changes_nothing_and_tiny_images_are_no_trouble() -> None:
    images = noise(2, 3)
    assert torch.equal(blur(images, torch.zeros(2, 1, 1, 1)), images)
    assert torch.equal(blur(images, torch.tensor([0.0, 2.0]).view(-1, 1, 1, 1))[0], images[0])
    for height, width in ((1, 1), (2, 5)):
        small = noise(2, 1, height, width)
        out = blur(small, torch.full((2, 1, 1, 1), 4.0))
        assert out.shape == small.shape
        assert out.min() >= small.min() - 1e-3
        assert out.max() <= small.max() + 1e-3


def test_noise_has_its_sigma_on_the_scale_of_the_pixels() -> None:
    torch.manual_seed(0)
    sigma = torch.tensor([0.0, 2.0, 10.0, 25.0]).view(-1, 1, 1, 1)
    images = torch.full((4, 3, 100, 100), 128.0)
    added = add_noise(images, sigma) - images
    assert torch.equal(added[0], torch.zeros_like(added[0]))
    for image, wanted in zip(added[1:], (2.0, 10.0, 25.0), strict=True):
        assert float(image.std()) == pytest.approx(wanted, rel=0.02)
        assert float(image.mean()) == pytest.approx(0, abs=0.03 * wanted)
    assert abs(float(torch.corrcoef(added[3].flatten(1))[0, 1])) < 0.03  # each channel for itself


def test_noise_is_clipped() -> None:
    torch.manual_seed(0)
    images = torch.tensor([0.0, 255.0]).view(2, 1, 1, 1).expand(2, 1, 100, 100)
    out = add_noise(images, torch.full((2, 1, 1, 1), 20.0))
    assert out.min() == 0
    assert out.max() == 255
    assert float(out[0].mean()) == pytest.approx(20 / math.sqrt(2 * math.pi), rel=0.05)  # half of a normal distribution
    assert float((out[1] == 255).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_a_box_is_filled_with_random_values_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    images = torch.full((3, 3, 20, 40), -1.0)
    boxes = torch.tensor([[0.25, 0.5, 0.5, 0.25], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.0, 0.0]])
    out = erase(images, boxes)
    inside = torch.zeros(3, 3, 20, 40, dtype=torch.bool)
    inside[0, :, 5:15, 20:30] = True
    inside[1] = True
    assert torch.equal(out >= 0, inside)
    assert out.max() <= 255
    assert float(out[1].mean()) == pytest.approx(127.5, rel=0.05)
    assert float(out[1].std()) == pytest.approx(255 / math.sqrt(12), rel=0.05)
