from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from planish.errors import DataError
from planish.evaluation.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
RANDOM = (*NOISE, "motion_blur", "fog", "elastic")
# what ``make_imagenet_c.py`` and ``make_cifar_c.py`` of the paper's authors use: standard deviation, photons, share
FOR_224_PIXELS = {
    "gaussian_noise": (0.08, 0.12, 0.18),
    "shot_noise": (60, 25, 12),
    "impulse_noise": (0.03, 0.06, 0.09),
}
FOR_32_PIXELS = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
}


@cache
def pictures(side: int, channels: int = 3, count: int = 6) -> np.ndarray:
    """Random pictures with as much detail as 28 pixels show, at any size."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        layers = [ndimage.zoom(rng.normal(size=(k, k, channels)), (224 / k, 224 / k, 1), order=3, grid_mode=True, mode="nearest") / k**0.5
                  for k in (3, 7, 14)]  # fmt: skip
        image = np.sum(layers, axis=0)
        image = 255 * (image - image.min()) / np.ptp(image)
        found.append(shrink(image, 224 // side) if side < 224 else image)
    return np.rint(np.array(found)).astype(np.uint8)


def shrink(image: np.ndarray, by: int) -> np.ndarray:
    """The mean over blocks of the last but one axes."""
    *rest, h, w, c = image.shape
    return image.reshape(*rest, h // by, by, w // by, by, c).mean(axis=(-4, -2))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(float) - b.astype(float)) ** 2)))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(CORRUPTIONS)), st.sampled_from(SEVERITIES), st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]))
def test_shape_and_type_are_kept_whatever_the_size(name: str, severity: int, height: int, width: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    kept = images.copy()
    found = corrupt(images, name, severity)
    assert found.shape == images.shape
    assert found.dtype == np.uint8
    assert (images == kept).all()
    for flat in (0, 255):  # nothing that needs contrast divides by it
        corrupt(np.full_like(images, flat), name, severity)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
@pytest.mark.parametrize("side", [28, 224])
def test_severity_means_more(name: str, side: int) -> None:
    images = pictures(side)
    moved = [distance(images, corrupt(images, name, severity)) for severity in SEVERITIES]
    assert moved == sorted(moved), moved
    assert moved[0] > 0.4
    assert moved[-1] > 1.2 * moved[0]


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_it_repeats_by_seed_and_batches_do_not_matter(name: str) -> None:
    images = pictures(28)
    whole = corrupt(images, name, 3, seed=5)
    batched = [corrupt(images[i : i + 2], name, 3, seed=5, first=i) for i in (0, 2, 4)]
    np.testing.assert_array_equal(whole, np.concatenate(batched))
    assert (corrupt(images, name, 3, seed=6) != whole).any() == (name in RANDOM)
    twins = corrupt(np.repeat(images[:1], 2, axis=0), name, 3)
    assert (twins[0] != twins[1]).any() == (name in RANDOM)


@pytest.mark.parametrize("name", [n for n in CORRUPTIONS if n not in (*NOISE, "jpeg")])
@pytest.mark.parametrize("severity", [1, 5])
def test_a_large_image_corrupted_and_shrunk_is_a_small_one_corrupted(name: str, severity: int) -> None:
    large, small = pictures(224), pictures(28)
    assert distance(shrink(large, 8), small) < 1
    of_large, of_small = shrink(corrupt(large, name, severity), 8), corrupt(small, name, severity)
    assert distance(of_large, of_small) < 0.4 * distance(of_large, small) + 0.45  # rounding to 8 bits, twice


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize(("side", "margin"), [(224, 1.05), (32, 1.75)])
def test_noise_is_as_strong_as_the_paper_says_or_near(name: str, side: int, margin: float) -> None:
    """Exactly for 224 pixels, within a margin for 32."""
    grey = np.full((4, side, side, 3), 128, np.uint8)
    for severity in SEVERITIES[: 3 if side == 224 else 5]:  # stronger noise is clipped at black and white
        values = corrupt(grey, name, severity) / 255
        wanted = (FOR_224_PIXELS if side == 224 else FOR_32_PIXELS)[name][severity - 1]
        if name == "impulse_noise":
            found = np.mean((values == 0) | (values == 1))
            assert np.mean(values == 0) == pytest.approx(np.mean(values == 1), rel=0.2)
        else:
            found, wanted = values.std(), (0.5 / wanted) ** 0.5 if name == "shot_noise" else wanted
        assert wanted / margin < found < wanted * margin, severity


def spread(image: np.ndarray) -> np.ndarray:
    """The covariance ``(2, 2)`` of where the light of a spot on grey 60 is, in pixels squared."""
    image = image.astype(float) - 60
    weights = image[..., 0] / image.sum()
    places = np.stack(np.mgrid[: image.shape[0], : image.shape[1]], axis=-1) - np.array(ndimage.center_of_mass(image[..., 0]))
    return np.einsum("yx,yxa,yxb->ab", weights, places, places)


@pytest.mark.parametrize("side", [28, 224])
def test_defocus_spreads_light_over_a_disc(side: int) -> None:
    spot = np.full((1, side, side, 1), 60, np.uint8)
    spot[0, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 200
    for severity, radius in zip(SEVERITIES, (3, 4, 6, 8, 10), strict=True):
        added = spread(corrupt(spot, "defocus_blur", severity)[0]) - spread(spot[0])
        np.testing.assert_allclose(added, (radius * side / 224) ** 2 / 4 * np.eye(2), atol=0.02 * (radius * side / 224) ** 2 + 0.03)
    y, x = np.mgrid[-14:15, -14:15]
    disc = (x**2 + y**2 <= 10**2) / np.sum(x**2 + y**2 <= 10**2)
    if side == 224:
        expected = ndimage.convolve(spot[0, :, :, 0] / 255.0, disc, mode="reflect")
        np.testing.assert_allclose(corrupt(spot, "defocus_blur", 5)[0, :, :, 0] / 255.0, expected, atol=0.03)


def test_motion_spreads_light_along_a_line() -> None:
    spot = np.full((5, 224, 224, 1), 60, np.uint8)
    spot[:, 100:124, 100:124] = 200
    angles = []
    for blurred in corrupt(spot, "motion_blur", 5):
        values, vectors = np.linalg.eigh(spread(blurred) - spread(spot[0]))
        assert values == pytest.approx([0, 24**2 / 12], abs=1)
        angles.append(np.arctan2(*vectors[:, 1]) % np.pi)
    assert np.ptp(angles) > 0.5


def test_contrast_and_brightness_are_what_they_say() -> None:
    images = np.random.default_rng(0).integers(100, 121, (1, 64, 64, 3)).astype(np.uint8)
    flat = corrupt(images, "contrast", 1).astype(float)
    assert flat.std() == pytest.approx(0.4 * images.std(), rel=0.05)
    assert flat.mean() == pytest.approx(images.mean(), abs=0.5)
    np.testing.assert_allclose(corrupt(images, "brightness", 2).astype(float) - images, 0.2 * 255, atol=0.51)


def test_pixels_become_blocks() -> None:
    image = pictures(224, count=1)
    blocks = corrupt(image, "pixelate", 5)[0].reshape(8, 28, 8, 28, 3)
    assert np.ptp(blocks, axis=(1, 3)).max() == 0
    np.testing.assert_allclose(blocks[:, 0, :, 0], shrink(image[0], 28), atol=1)


def test_jpeg_is_pillows_at_the_papers_quality() -> None:
    image = pictures(224, count=1)
    for severity, quality in zip(SEVERITIES, (25, 18, 15, 10, 7), strict=True):
        file = io.BytesIO()
        Image.fromarray(image[0]).save(file, "JPEG", quality=quality)
        np.testing.assert_array_equal(corrupt(image, "jpeg", severity)[0], np.asarray(Image.open(file)))


def test_elastic_moves_pixels_as_far_as_it_says() -> None:
    ramp = np.linspace(0, 255, 224)[None, None, :, None].repeat(224, axis=1).repeat(20, axis=0).astype(np.uint8)
    moved = (corrupt(ramp, "elastic", 3).astype(float) - ramp)[:, :, 24:-24] / 255
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.02, rel=0.15)


def test_fog_whitens_unevenly_and_leaves_white() -> None:
    white = np.full((1, 64, 64, 3), 255, np.uint8)
    assert corrupt(white, "fog", 5).min() < 255
    black = corrupt(0 * white, "fog", 1)[0].astype(float)
    assert black.std() > 20
    assert 40 < black.mean() < 120
    assert black.max() == pytest.approx(255 * 1.5 / 2.5, abs=1)
    neighbours = np.abs(np.diff(black[..., 0], axis=0)).mean()
    assert neighbours < 0.5 * black.std(), "haze, not noise"


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="gaussian_noise, shot_noise"):
        corrupt(pictures(28), "snow", 1)
    with pytest.raises(DataError, match="severity 6"):
        corrupt(pictures(28), "fog", 6)
