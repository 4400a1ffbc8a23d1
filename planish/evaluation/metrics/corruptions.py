"""Common corruptions of images, at five severities (Hendrycks and Dietterich 2019, arXiv:1903.12261).

Parameters are the paper's for 224 pixels, unless a docstring notes otherwise. At other sizes a corrupted image should look like the same
image at that size, so lengths (blur, shifts, blocks) are relative to the image's side. Corruptions of single pixels, or of JPEG's 8 x 8
blocks, would destroy small images, for which the paper also uses milder parameters (32 pixels): here noise scales with the square root of
the side and JPEG's quantization steps with the side, which is close to the paper's values.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage, signal

from planish.errors import DataError
from planish.evaluation.statistics.intervals import Floats

if TYPE_CHECKING:
    from planish.artifact import Pixels

Corruption = Callable[[Floats, int, np.random.Generator], Floats]

SEVERITIES = (1, 2, 3, 4, 5)
_REFERENCE = 224.0  # pixels


def corrupt(images: Pixels, name: str, severity: int, seed: int = 0, first: int = 0) -> Pixels:
    """Corrupt images, each with its own random state, which depends on the seed and the image's index but not on the other images.

    A higher severity uses the same random numbers: the same noise, the same haze, the same direction, but stronger.

    Args:
        images: uint8 ``(N, H, W, C)``, grey or RGB.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: random seed.
        first: index of the first image, for batches of a larger set.

    Returns:
        uint8 ``(N, H, W, C)``.

    Raises:
        DataError: there is no such corruption or severity.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise DataError(
            f"corruption {name!r} of severity {severity}", f"corruptions are {', '.join(CORRUPTIONS)}, severities 1 to {len(SEVERITIES)}"
        )
    corrupted, which = np.empty_like(images), list(CORRUPTIONS).index(name)
    for number, image in enumerate(images):
        rng = np.random.default_rng((seed, which, first + number))
        corrupted[number] = _to_bytes(CORRUPTIONS[name](image / 255.0, severity - 1, rng))
    return corrupted


def gaussian_noise(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Add Gaussian noise.

    Like all corruptions, it takes an image ``(H, W, C)`` from 0 to 1 and a ``level`` from 0 to 4, and returns an image that may exceed the
    range.
    """
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _relative(image) ** 0.5, image.shape)


def shot_noise(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Apply Poisson noise; the parameter is the mean number of photons of a white pixel."""
    photons = (60, 25, 12, 5, 3)[level] / _relative(image)
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Set random values to 0 or 1."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level] * _relative(image) ** 0.5
    drawn = rng.random(image.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0.0, 1.0), image)


def defocus_blur(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Average over a disc."""
    radius = (3, 4, 6, 8, 10)[level] * _relative(image)
    steps = _within(9 + 8 * int(radius))
    points = 2 * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    return _blur(image, radius * points[(points**2).sum(axis=1) <= 1])


def motion_blur(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Average along a line in a random direction."""
    length = (6, 10, 14, 18, 24)[level] * _relative(image)
    angle = rng.uniform(0, np.pi)
    return _blur(image, length * _within(9 + 4 * int(length))[:, None] * np.array([np.sin(angle), np.cos(angle)]))


def fog(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Blend with white haze that varies at all scales from 1/2 to 1/32 of the image; white stays white.

    The haze is not the paper's plasma fractal; with the paper's thickness of 2.5 and 3 at the last two levels, this one would hide less
    than with 2.5 at the level before, so it is thicker there.
    """
    thickness, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (3.0, 1.5), (4.0, 1.4))[level]
    haze = np.sum([_smooth(rng.random((2**k + 1, 2**k + 1)), image) / decay**k for k in range(1, 6)], axis=0)
    haze = (haze - np.min(haze)) / np.ptp(haze)
    return np.asarray((image + thickness * haze[..., None]) / (1 + thickness))


def brightness(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Add a constant to all channels."""
    return image + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def contrast(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Reduce the contrast around the mean of each channel."""
    mean = image.mean(axis=(0, 1))
    return np.asarray(mean + (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level])


def pixelate(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Average over blocks, 24 to 8 along a side; the paper's 134 to 56 would be finer than the pixels of small images."""
    blocks = (24, 20, 16, 12, 8)[level]
    rows, columns = (_in_blocks(pixels, max(1, round(blocks * pixels / _side(image)))) for pixels in image.shape[:2])
    return np.asarray(np.einsum("yi,xj,ijc->yxc", rows, columns, image, optimize=True))


def jpeg(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Compress with JPEG, at quality 25 to 7 for images of 224 pixels, 88 to 55 for images of 28 pixels."""
    steps = 5000 / (25, 18, 15, 10, 7)[level] * _relative(image)  # in % of the quantization table; libjpeg's definition of quality
    file = io.BytesIO()
    _to_pil(image).save(file, "JPEG", quality=int(np.clip(round(5000 / steps if steps > 100 else 100 - steps / 2), 1, 95)))
    return _from_pil(Image.open(file, formats=("JPEG",)), image)


def elastic(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Displace pixels by a smooth random field of a few hundredths of the side."""
    moved = (0.01, 0.015, 0.02, 0.03, 0.04)[level] * _side(image)  # root mean square, along each axis
    fields = np.stack([_smooth(rng.normal(size=(8, 8)), image) for _ in range(2)])
    fields *= moved / np.sqrt((fields**2).mean())
    where = np.mgrid[: image.shape[0], : image.shape[1]] + fields
    channels = [ndimage.map_coordinates(image[..., c], where, order=1, mode="reflect") for c in range(image.shape[2])]
    return np.stack(channels, axis=-1)


CORRUPTIONS: dict[str, Corruption] = {
    f.__name__: f
    for f in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, motion_blur, fog, brightness, contrast, pixelate, jpeg, elastic
    )
}  # fmt: skip
"""By name."""


def _side(image: Floats) -> float:
    """Return the side of the square with the same area, in pixels."""
    return float(np.sqrt(image.shape[0] * image.shape[1]))


def _relative(image: Floats) -> float:
    return _side(image) / _REFERENCE


def _within(count: int) -> Floats:
    """Return ``count`` evenly spaced points within -0.5 to 0.5."""
    return (np.arange(count) + 0.5) / count - 0.5


def _blur(image: Floats, points: Floats) -> Floats:
    """Return the mean of the image shifted by each of the points ``(P, 2)`` in pixels, with reflection at the border.

    Subpixel shifts use cubic convolution, which adds no blur to second order (R. Keys, Cubic convolution interpolation for digital image
    processing, 1981); linear interpolation would blur small images more than intended.
    """
    reach = int(np.ceil(np.abs(points).max())) + 2
    far = np.abs(np.arange(-reach, reach + 1) - points[..., None])
    weights = np.where(far < 1, 1.5 * far**3 - 2.5 * far**2 + 1, np.where(far < 2, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2, 0))
    kernel = weights[:, 0].T @ weights[:, 1] / len(points)
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return np.asarray(signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def _in_blocks(pixels: int, blocks: int) -> Floats:
    """Return a matrix ``(pixels, pixels)`` that replaces each pixel by the mean of its block, or a weighted mean at block borders."""
    pixel, block = np.linspace(0, 1, pixels + 1)[:, None], np.linspace(0, 1, blocks + 1)
    shared = np.clip(np.minimum(pixel[1:], block[1:]) - np.maximum(pixel[:-1], block[:-1]), 0, None)
    return np.asarray(shared @ shared.T * pixels * blocks)


def _smooth(grid: Floats, image: Floats) -> Floats:
    """Resize a coarse grid to the height and width of the image (bicubic)."""
    size = (image.shape[1], image.shape[0])
    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


def _to_bytes(image: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _to_pil(image: Floats) -> Image.Image:
    return Image.fromarray(_to_bytes(image[..., 0] if image.shape[2] == 1 else image))


def _from_pil(image: Image.Image, like: Floats) -> Floats:
    return np.asarray(image, dtype=np.float64).reshape(like.shape) / 255
