"""Images as cameras, scanners and converters write them: what they become, and what is said of files that are none."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from planish.data.annotations.annotated_image import AnnotatedImage
from planish.data.annotations.validation import size_of
from planish.data.images import load_images
from planish.data.preprocessing import decode
from planish.errors import DataError
from planish.progress import collecting_notes

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
ORIENTATION, X_RESOLUTION, Y_RESOLUTION = 274, 282, 283


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a value, ``(H, W)`` or ``(H, W, C)``, which Pillow cannot write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(values: np.ndarray, order: str, bits: int = 16) -> bytes:
    """A TIFF of grey in either order of bytes."""
    image = Image.frombytes("I;16B" if order == ">" else "I;16", values.shape[::-1], values.astype(f"{order}u2").tobytes())
    return saved(image, "TIFF")


def jpeg_with_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A JPEG with such tags: number, type, count and bytes of the value."""
    offset = 8 + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in entries:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", offset + len(values))
        values += value if len(value) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, count) + place
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + values
    plain = saved(Image.fromarray(COLOURS), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def size_from_head(tmp_path: Path, content: bytes) -> tuple[int, int]:
    (tmp_path / "file").write_bytes(content)
    return size_of(AnnotatedImage("file", tmp_path / "file", None))


SIX = (ORIENTATION, 3, 1, struct.pack("<H", 6))


@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        ([SIX], True),
        ([(ORIENTATION, 5, 1, struct.pack("<II", 6, 1))], True),
        ([(ORIENTATION, 5, 1, struct.pack("<II", 6, 0))], False),
        ([(ORIENTATION, 2, 8, b"garbage\0")], False),
        ([(ORIENTATION, 11, 1, struct.pack("<f", float("nan")))], False),
        ([(ORIENTATION, 3, 2, struct.pack("<HH", 6, 6))], True),
        ([(ORIENTATION, 3, 1, struct.pack("<H", 99))], False),
        ([SIX, (X_RESOLUTION, 5, 1, struct.pack("<II", 72, 0)), (Y_RESOLUTION, 5, 1, struct.pack("<II", 0, 0))], True),
        ([SIX, (X_RESOLUTION, 2, 8, b"garbage\0")], True),
        ([SIX, (X_RESOLUTION, 10, 2, struct.pack("<iiii", -1, 0, 3, -4))], True),
        ([SIX, (305, 2, 60_000, b"cut off")], True),
    ],
)
def test_exif_of_any_kind(tmp_path: Path, entries: list[tuple[int, int, int, bytes]], turned: bool) -> None:
    content = jpeg_with_exif(*entries)
    upright = decode(saved(Image.fromarray(COLOURS), "JPEG"), 3, 256)
    found = decode(content, 3, 256)
    np.testing.assert_array_equal(found, np.rot90(upright, -1) if turned else upright)
    assert size_from_head(tmp_path, content) == found.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("garbage", [False, True])
def test_tiff_is_turned_once(tmp_path: Path, orientation: int, compression: str, garbage: bool) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    if garbage:
        tags.tagtype[X_RESOLUTION] = 2
        tags[X_RESOLUTION] = "garbage"
    content = saved(Image.fromarray(COLOURS), "TIFF", tiffinfo=tags, compression=compression)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    expected = decode(saved(Image.fromarray(COLOURS), "PNG", exif=exif), 3, 256)  # which Pillow does not turn by itself
    found = decode(content, 3, 256)
    np.testing.assert_array_equal(found, expected)
    assert size_from_head(tmp_path, content) == found.shape[:2] == ((20, 12) if orientation > 4 else (12, 20))


@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >"])
def test_grey_of_12_and_16_bits(top: int, kind: str) -> None:
    values = RNG.integers(0, top + 1, (12, 20)).astype(np.uint32)
    values[0, :2] = 0, top
    content = png(values, 0) if kind == "png" else tiff16(values, kind[-1])
    np.testing.assert_array_equal(decode(content, 1, 256)[..., 0], (values * 255 + top // 2) // top)


@pytest.mark.parametrize("colour_type", [2, 6])
def test_colour_of_12_bits(colour_type: int) -> None:
    values = RNG.integers(0, 4096, (700, 400, 3)).astype(np.uint32)  # more than is converted at a time
    alpha = np.full((700, 400, 1), 65535)
    content = png(values if colour_type == 2 else np.concatenate([values, alpha], axis=2), colour_type)
    np.testing.assert_array_equal(decode(content, 3, 1000), (values * 255 + 2047) // 4095)


def test_colour_of_16_bits() -> None:
    values = RNG.integers(0, 65536, (12, 20, 3))
    np.testing.assert_array_equal(decode(png(values, 2), 3, 256), values >> 8)


def test_data_of_12_bits_and_of_several_frames_is_noted(tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)) for _ in range(5)]
    kinds = ("GIF", "PNG", "WEBP", "TIFF")
    animations = [saved(frames[i], kind, save_all=True, append_images=[frames[i + 1]]) for i, kind in enumerate(kinds)]
    dark = [png(RNG.integers(0, 4000, (12, 20)), 0) for _ in range(2)] + [png(RNG.integers(0, 4000, (12, 20, 3)), 2) for _ in range(2)]
    bright = [png(RNG.integers(0, 65536, (12, 20)), 0) for _ in range(4)]
    for name, contents in (("animations", animations), ("dark", dark), ("bright", bright)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i, content in enumerate(contents):
            (tmp_path / "d" / name / f"{i}.png").write_bytes(content)
    for _ in range(2):  # decoded, and from the cache
        with collecting_notes() as notes:
            load_images(tmp_path / "d", cache_dir=tmp_path / "cache")
        assert [text for text in notes if "of 12 images" in text] == [
            "4 of 12 images have several frames or pages, of which the first is used: for example animations/0.png",
            "4 of 12 images have 16 bits a value, but none above 4095: they are taken for 12 bits, and 4095 for white: "
            "for example dark/0.png",
        ]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_used(kind: str) -> None:
    frames = [Image.fromarray(np.full((12, 20, 3), level, np.uint8)) for level in (40, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options), 3, 256) == 40).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (bytes(5000), "a file of zeros"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC, for which there is no decoder"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\r\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"%PDF-1.7", "a PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (bytes(128) + b"DICM\1", "DICOM"),
        (b"\x93NUMPY\1\0", "NumPy"),
        (b"words", "not an image, or of an unknown kind"),
        (saved(Image.fromarray(COLOURS), "JPEG")[:200], "cannot be decoded"),
        (saved(Image.fromarray(np.tile(COLOURS, (9, 9, 1))), "PNG")[:900], "truncated"),
        (saved(Image.fromarray(COLOURS[..., 0].astype(np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(content, 3, 256)
    (tmp_path / "file").write_bytes(content)
    with contextlib.suppress(DataError):
        size_of(AnnotatedImage("file", tmp_path / "file", None))


def test_all_undecodable_files_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
        (tmp_path / name / "5.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(DataError, match=r"2 of 10 files are broken: a/5.jpg: .*HEIC.*; b/5.jpg: .*HEIC"):
        load_images(tmp_path)
    assert load_images(tmp_path, skip_bad=True).report.images == 8


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("1", (8, 6), 1), "PNG", 255),
        (Image.new("LA", (8, 6), (10, 0)), "PNG", 255),
        (Image.new("CMYK", (8, 6), (0, 0, 0, 255)), "JPEG", 0),
        (Image.new("CMYK", (8, 6), (0, 0, 0, 0)), "TIFF", 255),
        (Image.new("RGBA", (8, 6), (9, 9, 9, 0)), "WEBP", 255),
        (Image.new("I", (8, 6), 70_000), "TIFF", None),
    ],
)
def test_other_modes(image: Image.Image, kind: str, expected: int | None) -> None:
    content = saved(image, kind)
    if expected is None:
        with pytest.raises(DataError, match="grey values from 70000 to 70000"):
            decode(content, 3, 256)
    else:
        assert np.abs(decode(content, 3, 256).astype(int) - expected).max() <= 2


def test_transparent_colour_of_a_palette_is_white() -> None:
    image = Image.new("P", (8, 6), 3)
    image.putpalette([200, 0, 0] * 4)
    for kind in ("PNG", "GIF"):
        assert (decode(saved(image, kind, transparency=3), 3, 256) == 255).all()
