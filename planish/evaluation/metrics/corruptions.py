"""Common corruptions of images, at five severities (Hendrycks and Dietterich 2019, arXiv:1903.12261).

Strengths are the paper's for 224 pixels, unless a function says otherwise. At other sizes a corruption is to mean the same picture, seen at
that size: lengths (blur, shifts, blocks) are shares of the image's side. What works on single pixels, or on JPEG's blocks of eight, would
ruin small images, and the paper's own strengths for 32 pixels are milder: noise goes with the root of the side, JPEG's steps with the
side, which comes near those.
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
    """Corrupt every image in its own way; what becomes of one depends on the seed and on its number, not on the others.
    A higher severity is more of the same: the same noise, the same haze, the same direction.

    Args:
        images: uint8 ``(N, H, W, C)``, grey or RGB.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of what is random.
        first: number of the first image, for a batch out of many.

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
    """Every function takes and returns an image ``(H, W, C)`` from 0 to 1, perhaps beyond; ``level`` is 0 to 4."""
    return image + rng.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level] * _relative(image) ** 0.5, image.shape)


def shot_noise(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """White is that many photons on average."""
    photons = (60, 25, 12, 5, 3)[level] / _relative(image)
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Single values become 0 or 1."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level] * _relative(image) ** 0.5
    drawn = rng.random(image.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0.0, 1.0), image)


def defocus_blur(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """The mean over a disc."""
    radius = (3, 4, 6, 8, 10)[level] * _relative(image)
    steps = _within(9 + 8 * int(radius))
    points = 2 * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    return _blur(image, radius * points[(points**2).sum(axis=1) <= 1])


def motion_blur(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """The mean over a line in a random direction."""
    length = (6, 10, 14, 18, 24)[level] * _relative(image)
    angle = rng.uniform(0, np.pi)
    return _blur(image, length * _within(9 + 4 * int(length))[:, None] * np.array([np.sin(angle), np.cos(angle)]))


def fog(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """White haze, uneven at all scales from half the image to a thirtieth; white stays white.

    Not the paper's fractal: at its 2.5 and 3 for the last two, ours would hide less than at 2.5 before.
    """
    thickness, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (3.0, 1.5), (4.0, 1.4))[level]
    haze = np.sum([_smooth(rng.random((2**k + 1, 2**k + 1)), image) / decay**k for k in range(1, 6)], axis=0)
    haze = (haze - np.min(haze)) / np.ptp(haze)
    return np.asarray((image + thickness * haze[..., None]) / (1 + thickness))


def brightness(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Added to all channels."""
    return image + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def contrast(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Around the mean of each channel."""
    mean = image.mean(axis=(0, 1))
    return np.asarray(mean + (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level])


def pixelate(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """So many blocks along a side; the paper's 134 to 56 would be finer than the pixels of small images."""
    blocks = (24, 20, 16, 12, 8)[level]
    rows, columns = (_in_blocks(pixels, max(1, round(blocks * pixels / _side(image)))) for pixels in image.shape[:2])
    return np.asarray(np.einsum("yi,xj,ijc->yxc", rows, columns, image, optimize=True))


def jpeg(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Quality 25 to 7 for 224 pixels, 88 to 55 for 28."""
    steps = 5000 / (25, 18, 15, 10, 7)[level] * _relative(image)  # in % of the quantization table; libjpeg's definition of quality
    file = io.BytesIO()
    _to_pil(image).save(file, "JPEG", quality=int(np.clip(round(5000 / steps if steps > 100 else 100 - steps / 2), 1, 95)))
    return _from_pil(Image.open(file, formats=("JPEG",)), image)


def elastic(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Pixels are moved, neighbours alike, by a few hundredths of the side."""
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
    """Of the square of the same area, in pixels."""
    return float(np.sqrt(image.shape[0] * image.shape[1]))


def _relative(image: Floats) -> float:
    return _side(image) / _REFERENCE


def _within(count: int) -> Floats:
    """Evenly within -0.5 to 0.5."""
    return (np.arange(count) + 0.5) / count - 0.5


def _blur(image: Floats, points: Floats) -> Floats:
    """The mean of the image shifted by each of the points ``(P, 2)`` in pixels; mirrored at the border.

    Between pixels it is read by cubic convolution, which adds no blur of its own to second order (R. Keys, Cubic convolution interpolation
    for digital image processing, 1981): linear interpolation would blur small images more than what is asked for.
    """
    reach = int(np.ceil(np.abs(points).max())) + 2
    far = np.abs(np.arange(-reach, reach + 1) - points[..., None])
    weights = np.where(far < 1, 1.5 * far**3 - 2.5 * far**2 + 1, np.where(far < 2, -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2, 0))
    kernel = weights[:, 0].T @ weights[:, 1] / len(points)
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    return np.asarray(signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def _in_blocks(pixels: int, blocks: int) -> Floats:
    """A matrix ``(pixels, pixels)`` that gives each pixel the mean of the blocks it lies in, by the parts of it that lie there."""
    pixel, block = np.linspace(0, 1, pixels + 1)[:, None], np.linspace(0, 1, blocks + 1)
    shared = np.clip(np.minimum(pixel[1:], block[1:]) - np.maximum(pixel[:-1], block[:-1]), 0, None)
    return np.asarray(shared @ shared.T * pixels * blocks)


def _smooth(grid: Floats, image: Floats) -> Floats:
    """A coarse grid drawn out to the height and width of the image."""
    size = (image.shape[1], image.shape[0])
    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


def _to_bytes(image: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _to_pil(image: Floats) -> Image.Image:
    return Image.fromarray(_to_bytes(image[..., 0] if image.shape[2] == 1 else image))


def _from_pil(image: Image.Image, like: Floats) -> Floats:
    return np.asarray(image, dtype=np.float64).reshape(like.shape) / 255
