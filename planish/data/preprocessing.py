"""Preprocessing of image files to model input, shared by training, calibration, evaluation and the deployed model.

Depends on Pillow and NumPy only, so that a service and ``planish verify`` run without PyTorch.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from planish.data.sources.file_kinds import (
    FULL_RANGE,
    TWELVE_BITS,
    describe_undecodable,
    is_twelve_bit,
    low_bytes,
    scale_twelve_bits,
    sixteen_bit_colour,
)
from planish.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from planish.artifact import InputSpec, Preprocessing

# Pillow can also run Ghostscript and parse dozens of rare formats; untrusted files only ever reach these decoders.
# (The multi-picture files of phones are opened by the JPEG decoder.)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_LONGEST = 16  # longer sides than this multiple of what the crop needs are cut before resizing
_STRIP_PIXELS = 250_000  # pixels converted at a time, so that temporary arrays do not grow with the image
# Peak memory of decoding and conversion in bytes per pixel, the maximum over colour modes, measured by tests/data/test_decoding_memory.py.
# Decoders that are not listed hold only the image and one copy of it.
_BYTES_PER_PIXEL = {"JPEG": 10.6, "MPO": 10.6, "TIFF": 13, "WEBP": 17, "AVIF": 17, "JPEG2000": 26}
MAX_PIXELS = 64_000_000  # largest image that is decoded as a whole
LARGEST_PIXELS = 1 << 30  # largest image that is cut into tiles
_PILLOW_LIMIT = threading.Lock()  # it is of the whole process
_BYTES_PER_PIXEL_CMYK = 13
_BYTES_PER_PIXEL_OTHERS = 10


def decode(file_bytes: bytes, channels: int, decode_side: int, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    The EXIF orientation is applied, alpha is composited on white, palette, 1-bit and CMYK images are converted, and 16-bit images are
    scaled to 8 bits. In 16-bit images 65535 is white, or 4095 if no value exceeds it (12-bit cameras). Only the first frame or page of a
    file is decoded.

    Args:
        file_bytes: the contents of the file.
        channels: 1 for grey, 3 for RGB.
        decode_side: images whose shorter side is longer than this many pixels are shrunk to it (bilinear, antialiased).
        max_pixels: images with more pixels are rejected after reading the header, before any memory is allocated.

    Returns:
        uint8 ``(H, W, channels)``.

    Raises:
        DataError: the file is not an image, truncated, corrupt, too large, or has pixels without a defined range (floating point).
    """
    return decode_with_size(file_bytes, channels, decode_side, max_pixels)[0]


def decode_with_size(
    file_bytes: bytes,
    channels: int,
    decode_side: int,
    max_pixels: int = MAX_PIXELS,
    reserve: Callable[[int], object] = lambda size_bytes: None,
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode like ``decode``, and also return the height and width of the image before it was shrunk.

    Args:
        file_bytes: see ``decode``.
        channels: see ``decode``.
        decode_side: see ``decode``.
        max_pixels: see ``decode``.
        reserve: called with an upper bound on the memory that decoding needs, in bytes, after the header is read and before anything is
            allocated. It may block until memory is available, or raise.
    """
    if channels not in (1, 3):
        raise DataError(f"channels={channels}", "images are grey (1) or RGB (3)")
    image = _converted(_load(file_bytes, max_pixels, reserve), channels)
    size = image.height, image.width
    if min(size) > decode_side:
        image = image.resize([decode_side * side // min(size) for side in image.size], Image.Resampling.BILINEAR)
    return _to_array(image), size


def resize(image: npt.NDArray[np.uint8], spec: InputSpec, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Resize a decoded image ``(H, W, C)`` to the model's input size: uint8 ``(spec.height, spec.width, C)``.

    ``squash`` ignores the aspect ratio; ``crop`` scales the image until it just covers the input and takes the centre crop.
    """
    height, width = image.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return image
    pil = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if preprocessing.resize == "crop":  # crop extreme aspect ratios first: scaling up a line of pixels would exhaust memory
        high = min(height, _LONGEST * width * spec.height // spec.width + 1)
        wide = min(width, _LONGEST * height * spec.width // spec.height + 1)
        if (high, wide) != (height, width):
            left, top = (width - wide) // 2, (height - high) // 2
            pil = pil.crop((left, top, left + wide, top + high))
            height, width = high, wide
    if preprocessing.resize == "squash":
        return _to_array(pil.resize((spec.width, spec.height), Image.Resampling.BILINEAR))
    size = max(spec.width, spec.height * width // height), max(spec.height, spec.width * height // width)
    left, top = round((size[0] - spec.width) / 2), round((size[1] - spec.height) / 2)
    return _to_array(pil.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + spec.width, top + spec.height)))


def preprocess(file_bytes: bytes, spec: InputSpec, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Decode and resize an image file to uint8 ``(spec.height, spec.width, spec.channels)``. Raises like ``decode``."""
    return resize(decode(file_bytes, spec.channels, preprocessing.decode_side), spec, preprocessing)


def _load(file_bytes: bytes, max_pixels: int, reserve: Callable[[int], object]) -> Image.Image:
    with image_damage_reported(max_pixels):
        try:
            image = open_header(io.BytesIO(file_bytes), max_pixels)
        except UnidentifiedImageError as error:
            raise DataError(f"an image that cannot be decoded: {describe_undecodable(file_bytes)}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"an image of {width:,} x {height:,} pixels", f"at most {max_pixels:,} pixels are decoded")
    each = _BYTES_PER_PIXEL.get(image.format or "", _BYTES_PER_PIXEL_OTHERS)
    reserve(int(width * height * (max(each, _BYTES_PER_PIXEL_CMYK) if image.mode == "CMYK" else each)))
    with image_damage_reported(max_pixels):
        colours_of_16_bits = sixteen_bit_colour(image)
        image.load()
        if colours_of_16_bits and is_twelve_bit(image):
            scale_twelve_bits(image, low_bytes(file_bytes, FORMATS))
        # Parse the EXIF tags, then drop their raw text: exif_transpose would serialize it again, which fails on corrupt tags.
        image.getexif()
        for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
            image.info.pop(name, None)
        ImageOps.exif_transpose(image, in_place=True)  # in place, since a copy would lose the TIFF tags
    return image


def open_header(stream: BinaryIO, max_pixels: int) -> Image.Image:
    """Read the header of an image file, with a limit of ``max_pixels`` where that is above Pillow's own of 179 million."""
    if max_pixels <= MAX_PIXELS:
        return Image.open(stream, formats=FORMATS)
    with _PILLOW_LIMIT:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None if usual is None else max(usual, max_pixels)
        try:
            return Image.open(stream, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = usual


@contextmanager
def image_damage_reported(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Convert exceptions that Pillow raises on damaged images within this block to ``DataError``."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"an image of too many pixels: {error}", f"at most {max_pixels:,} pixels are decoded") from error
    except (MemoryError, DataError):  # running out of memory is no fault of the file
        raise
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files
        raise DataError(f"an image that cannot be decoded: {str(error) or type(error).__name__}") from error


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Convert to opaque 8-bit grey or RGB, strip by strip so that no temporary array is as large as the image."""
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise DataError("an image of floating-point pixels", "their range is not known", "save it with 8 or 16 bits per channel")
    top = TWELVE_BITS if image.mode.startswith("I") and is_twelve_bit(image) else FULL_RANGE
    converted = Image.new(wanted, image.size)
    for start, strip in _strips(image):
        if strip.mode.startswith("I"):
            strip = _eight_bit(strip, top)
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        converted.paste(_convert(strip, wanted), (0, start))
    return converted


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips of whole rows, each with the index of its first row."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for start in range(0, image.height, rows):
        yield start, image.crop((0, start, image.width, min(image.height, start + rows)))


def _eight_bit(image: Image.Image, top: int) -> Image.Image:
    """Scale 12-bit or 16-bit grey values from 0..``top`` to 8 bits; Pillow's own ``convert`` would clip at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > top:
        raise DataError(f"an image with grey values from {values.min()} to {values.max()}", f"they must lie in 0 to {top}")
    return Image.fromarray(((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8))  # 65535 * 255 fits 32 bits


def _convert(image: Image.Image, wanted: str) -> Image.Image:
    if image.mode == wanted:
        return image
    try:
        if image.mode in ("P", "CMYK", "YCbCr", "HSV"):  # Pillow converts these to grey only via RGB
            image = image.convert("RGB")
        return image.convert(wanted)
    except ValueError as error:
        raise DataError(f"an image in colour mode {image.mode}", str(error), "save it as RGB or grey") from error


def _to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    array = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for start, strip in _strips(image):
        array[start : start + strip.height] = np.asarray(strip).reshape(strip.height, strip.width, -1)
    return array
