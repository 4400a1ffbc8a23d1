"""Inspection of image files: why they cannot be decoded, and unusual properties worth a note."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

TWELVE_BITS = 4095  # largest 12-bit value
FULL_RANGE = 65535
_STRIP_PIXELS = 250_000  # pixels converted at a time
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the images with: git lfs pull"),
    (b"8BPS", "a Photoshop file (PSD)"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"SIMPLE  =", "FITS"),
)
_OTHER_BYTE = {f"{mode};16{end}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for end, other in ("BL", "LB", "NB")}


def describe_undecodable(file_bytes: bytes) -> str:
    """Describe a file that cannot be decoded, by its first bytes."""
    if not file_bytes:
        return "an empty file"
    if file_bytes[4:8] == b"ftyp" and file_bytes[8:12] in _HEIF:
        return "HEIC, for which there is no decoder here; convert it to JPEG or PNG"
    if file_bytes[128:132] == b"DICM":
        return "DICOM; export it as PNG"
    head = file_bytes[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, kind in _SIGNATURES:
        if head.startswith(start.lower()):
            return kind
    if not any(file_bytes[:4096]):
        return "a file of zeros, as an interrupted copy leaves"
    return "not an image, or of an unknown kind"


def remarks(file_bytes: bytes, formats: tuple[str, ...]) -> list[str]:
    """Notes about unusual properties of a decoded image; cheap, except for 16-bit images, which are decoded again."""
    found = []
    with Image.open(io.BytesIO(file_bytes), formats=formats) as image:
        if image.format in ("GIF", "PNG", "WEBP", "TIFF") and getattr(image, "is_animated", False):
            found.append("have several frames or pages, of which the first is used")
        if (image.mode.startswith("I") or sixteen_bit_colour(image)) and is_twelve_bit(image):
            found.append(f"have 16 bits a value, but none above {TWELVE_BITS}: they are taken for 12 bits, and {TWELVE_BITS} for white")
    return found


def is_twelve_bit(image: Image.Image) -> bool:
    """Whether no value of a 16-bit image, grey or colour, exceeds 4095."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max(initial=0)) <= TWELVE_BITS
    extrema: Any = image.getextrema()
    return bool(max(top for _, top in extrema[:3]) <= TWELVE_BITS >> 8)  # Pillow keeps the high byte of each colour


def sixteen_bit_colour(image: Image.Image) -> list[str]:
    """Pillow's raw modes for the low bytes of a 16-bit RGB or RGBA image that is opened but not loaded; empty for other images."""
    names = [tile.args if isinstance(tile.args, str) else str((tile.args or ("",))[0]) for tile in getattr(image, "tile", ())]
    return [_OTHER_BYTE[name] for name in names] if names and all(name in _OTHER_BYTE for name in names) else []


def low_bytes(file_bytes: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Decode the low bytes of a 16-bit RGB or RGBA image; Pillow itself keeps only the high bytes."""
    image = Image.open(io.BytesIO(file_bytes), formats=formats)
    tiles: list[Any] = image.tile
    image.tile = [
        tile._replace(args=name if isinstance(tile.args, str) else (name, *tile.args[1:]))
        for tile, name in zip(tiles, sixteen_bit_colour(image), strict=True)
    ]
    image.load()
    return image


def scale_twelve_bits(high: Image.Image, low: Image.Image) -> None:
    """Scale 12-bit colours, given as their high and low bytes, to 8 bits in ``high``, in place, some rows at a time; alpha is unchanged."""
    rows = max(1, _STRIP_PIXELS // high.width)
    for top in range(0, high.height, rows):
        box = (0, top, high.width, min(high.height, top + rows))
        strip, rest = np.array(high.crop(box)), np.asarray(low.crop(box))
        values = strip[..., :3].astype(np.uint32) << 8 | rest[..., :3]
        strip[..., :3] = (values * 255 + TWELVE_BITS // 2) // TWELVE_BITS
        high.paste(Image.fromarray(strip), box)
