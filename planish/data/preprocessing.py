"""From an image file to what a model is fed. Training, calibration, evaluation and the shipped artifact all use these functions.

Pillow and numpy are all they need, so that a service and ``planish verify`` run without torch.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from planish.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from planish.artifact import InputSpec, Preprocessing

# Pillow can also run Ghostscript and parse dozens of rare formats; files from strangers only ever reach these readers.
# (Phones' multi-picture files are opened by the JPEG reader.)
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_BITS_PER_SAMPLE = 258  # TIFF tag
_LONGEST = 16  # times what the crop needs of the longer side


def decode(file_bytes: bytes, channels: int, decode_side: int, max_pixels: int = 64_000_000) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    EXIF rotation is carried out, alpha put on white, palettes, 1-bit and CMYK converted, 16-bit scaled to 8. Of an animation the
    first frame is taken.

    Args:
        file_bytes: the file.
        channels: 1 for grey, 3 for RGB.
        decode_side: an image whose shorter side is longer than this many pixels is shrunk to it (bilinear, antialiased).
        max_pixels: images with more pixels are refused from their header, before memory is spent on them.

    Returns:
        uint8 ``(H, W, channels)``.

    Raises:
        DataError: not an image, truncated, corrupt, too large, or of a kind without an agreed brightness range.
    """
    return decode_with_size(file_bytes, channels, decode_side, max_pixels)[0]


def decode_with_size(
    file_bytes: bytes, channels: int, decode_side: int, max_pixels: int = 64_000_000
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """As ``decode``, and beside it height and width of the image before it was shrunk."""
    if channels not in (1, 3):
        raise DataError(f"channels={channels}", "images are grey (1) or RGB (3)")
    image = _eight_bit(_load(file_bytes, max_pixels))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = _convert(image, channels)
    size = image.height, image.width
    if min(size) > decode_side:
        image = image.resize([decode_side * side // min(size) for side in image.size], Image.Resampling.BILINEAR)
    return _to_array(image), size


def resize(image: npt.NDArray[np.uint8], spec: InputSpec, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Bring a decoded image ``(H, W, C)`` to the model's input size: uint8 ``(spec.height, spec.width, C)``.

    ``squash`` ignores the aspect ratio; ``crop`` scales the image until it just covers the input and keeps the centre.
    """
    height, width = image.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return image
    pil = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if preprocessing.resize == "crop":  # of a line of pixels only the middle is scaled up: the whole would fill the memory
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


def prepare(file_bytes: bytes, spec: InputSpec, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Decode and resize: from an image file to uint8 ``(spec.height, spec.width, spec.channels)``. Raises like ``decode``."""
    return resize(decode(file_bytes, spec.channels, preprocessing.decode_side), spec, preprocessing)


def _load(file_bytes: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(file_bytes), formats=FORMATS)
        width, height = image.size
        if width * height <= max_pixels:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy would lose the TIFF tags
            return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"an image of too many pixels: {error}", f"at most {max_pixels:,} pixels are decoded") from error
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on a damaged file
        reason = "not an image, or of an unknown kind" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"an image that cannot be decoded: {reason or type(error).__name__}") from error
    raise DataError(f"an image of {width:,} x {height:,} pixels", f"at most {max_pixels:,} pixels are decoded")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 12- and 16-bit grey to 8 bits; Pillow's own ``convert`` would clip at 255."""
    if image.mode == "F":
        raise DataError("an image of floating-point pixels", "their range is not known", "save it with 8 or 16 bits a channel")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    top = 4095 if tags.get(_BITS_PER_SAMPLE, (16,))[0] == 12 else 65535
    if values.min() < 0 or values.max() > top:
        raise DataError(f"an image with grey values from {values.min()} to {values.max()}", f"they must lie in 0 to {top}")
    return Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))


def _convert(image: Image.Image, channels: int) -> Image.Image:
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted:
        return image
    try:
        if image.mode in ("P", "CMYK", "YCbCr", "HSV"):  # Pillow reaches grey from these only by way of RGB
            image = image.convert("RGB")
        return image.convert(wanted)
    except ValueError as error:
        raise DataError(f"an image in colour mode {image.mode}", str(error), "save it as RGB or grey") from error


def _to_array(image: Image.Image) -> npt.NDArray[np.uint8]:
    array = np.array(image, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array
