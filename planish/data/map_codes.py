"""What the values or colours of label maps stand for, and reading such maps."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from planish.data.preprocessing import FORMATS, MAX_PIXELS, image_damage_reported
from planish.errors import DataError
from planish.input_files import DAMAGED, describe, read_text, require_regular
from planish.progress import note

IGNORED = 255
_MOST = 255  # classes of a map of bytes
_FILES = ("classes.txt", "labels.txt", "class_names.txt", "classes.json", "class_dict.csv", "classes.csv")
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_NEAR, _MOSTLY = 32, 0.9  # greys that are near black or white, and the share of pixels that are
_STRAY = 4  # different greys besides, from which on they are no classes
_COLOUR = 1 << 24  # added to what colours are numbered by, so that none is taken for a value


@dataclass(frozen=True)
class Codes:
    """Classes by what stands in the maps.

    Args:
        codes: values or colours, rising; what is not among them is ignored.
        labels: the class of each.
        class_names: by class.
    """

    codes: tuple[int, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def classes(self, file: Path) -> npt.NDArray[np.uint8]:
        """The classes of a map's pixels, uint8 ``(H, W)``; 255 where nothing is asked."""
        found = read_codes(file)
        places = np.minimum(np.searchsorted(self.codes, found), len(self.codes) - 1)
        known = np.asarray(self.codes)[places] == found
        return np.where(known, np.asarray(self.labels, np.uint8)[places], np.uint8(IGNORED))


def read_codes(file: Path) -> npt.NDArray[np.int64]:
    """What stands in a map ``(H, W)``: values of an indexed or grey image, colours as numbers.

    Raises:
        DataError: it cannot be read.
    """
    pixels = np.asarray(_opened(file)).astype(np.int64)
    return pixels if pixels.ndim == 2 else _COLOUR + (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]


def codes_in(file: Path) -> frozenset[int]:
    """All that stands in a map.

    Raises:
        DataError: it cannot be read, or has more colours than classes can be told apart.
    """
    told = file.stat()
    return _codes_in(file, told.st_mtime_ns, told.st_size)


@lru_cache(maxsize=1_000_000)
def _codes_in(file: Path, changed: int, size: int) -> frozenset[int]:
    image = _opened(file)
    if image.mode != "RGB":
        return frozenset(np.unique(np.asarray(image)).tolist())
    colours: Any = image.getcolors(_MOST + 1)
    if colours is None:
        raise DataError(f"the mask {file} has more than {_MOST} colours", "a colour is a class", "masks that were saved as JPEG are lost")
    return frozenset(_COLOUR + (r << 16) + (g << 8) + b for _, (r, g, b) in colours)


def size_in(file: Path) -> tuple[int, int]:
    """Height and width of a map, from its head."""
    with Image.open(file, formats=FORMATS) as image:
        return image.height, image.width


def named_codes(root: Path, seen: frozenset[int], voc: bool) -> Codes:
    """The classes of a data set.

    Args:
        root: its folder, where ``classes.txt`` and its like name them: a name a line, JSON or CSV with ``name, r, g, b``.
        seen: in any of its maps.
        voc: whether values that nobody names are Pascal VOC's.

    Raises:
        DataError: there are no two classes, too many, or some that are not named.
    """
    given, source = _given(root)
    if all(code < _COLOUR for code in seen) or all(_is_grey(code) for code in seen):
        meant = {code: code & 255 if code >= _COLOUR else code for code in seen}
        if set(meant.values()) == {0, IGNORED} and not given:
            note("masks hold 0 and 255 only: 255 is taken for the object, not for pixels to be ignored")
            meant = {code: min(value, 1) for code, value in meant.items()}
        names: dict[Any, str] = given or (
            dict(enumerate(_VOC)) if voc else {v: f"class {v}" if v else "background" for v in meant.values()}
        )
        meant = {code: value for code, value in meant.items() if value != IGNORED or value in given}
    else:
        meant = {code: code & (_COLOUR - 1) for code in seen}
        names = given or {value: f"#{value:06x}" if value else "background" for value in meant.values()}
    if strange := sorted(set(meant.values()) - set(names)):
        raise DataError(f"masks hold {strange[:5]}, which {source} does not name", f"it names {list(names)[:10]}", "name them there")
    values = sorted(set(meant.values()))
    if not 2 <= len(values) <= _MOST:
        raise DataError(f"masks of {len(values)} classes", f"there are 2 to {_MOST} to tell apart", "is the background a class of its own?")
    codes = tuple(sorted(meant))
    return Codes(codes, tuple(values.index(meant[code]) for code in codes), tuple(names[value] for value in values))


def noisy_binary(root: Path, files: Sequence[Path]) -> Codes | None:
    """The codes of masks that mean black and white, but hold other greys, of JPEG or of resizing; None where they are no such masks.

    Args:
        root: of the data set; where a file in it names the values, they are meant.
        files: of all masks; up to 64 of them are looked at.
    """
    if _given(root)[0]:
        return None
    counts = np.zeros(256, np.int64)
    for file in files[:: max(1, len(files) // 64)]:
        pixels = np.asarray(_opened(file))
        if pixels.dtype != np.uint8 or (pixels.ndim == 3 and (pixels != pixels[..., :1]).any()):
            return None
        counts += np.bincount((pixels if pixels.ndim == 2 else pixels[..., 0]).ravel(), minlength=256)
    others = counts[1:255].sum()
    ends = counts[:_NEAR].sum(), counts[-_NEAR:].sum()
    if (
        np.count_nonzero(counts[1:255]) < _STRAY
        or not all(ends)
        or counts[[0, 255]].min() <= counts[1:255].max()
        or sum(ends) < _MOSTLY * counts.sum()
    ):
        return None
    note(f"masks are black and white with {100 * others.sum() / counts.sum():.1f} % of other greys, as of JPEG: they are cut at 128")
    codes = (*range(256), *(_COLOUR + value * 0x010101 for value in range(256)))
    return Codes(codes, tuple(int(code & 255 >= 128) for code in codes), ("background", "object"))


def _given(root: Path) -> tuple[dict[int, str], str]:
    """Names by value, or by colour, as a file says; and which."""
    for name in _FILES:
        if not (file := root / name).is_file():
            continue
        try:
            text = read_text(file)
            if file.suffix == ".json":
                return _of_json(json.loads(text)), name
            if file.suffix == ".csv":
                return _of_table(list(csv.reader(text.splitlines()))), name
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip())), name
        except DAMAGED as error:
            raise DataError(
                f"{file} cannot be understood: {describe(error)}", "it has a name a line, JSON of names and values, or CSV of name, r, g, b"
            ) from error
    return {}, "no file"


def _of_json(content: Any) -> dict[int, str]:
    if isinstance(content, list):
        return {i: str(name) for i, name in enumerate(content)}
    numbered = all(str(key).isdigit() for key in content)
    return {int(key): str(value) for key, value in content.items()} if numbered else {_code(v): str(k) for k, v in content.items()}


def _of_table(rows: list[list[str]]) -> dict[int, str]:
    rows = [row for row in rows if len(row) > 1 and row[1].strip().isdigit()]  # the head is none of them
    return {_code([int(word) for word in row[1:4]] if len(row) > 3 else int(row[1])): row[0].strip() for row in rows}


def _code(value: Any) -> int:
    if isinstance(value, int):
        return value
    red, green, blue = (int(part) for part in value)
    return (red << 16) + (green << 8) + blue


def _is_grey(code: int) -> bool:
    return code >= _COLOUR and (code >> 16) & 255 == (code >> 8) & 255 == code & 255


def _opened(file: Path) -> Image.Image:
    try:
        with image_damage_reported():
            require_regular(file)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"an image of {image.width:,} x {image.height:,} pixels", f"at most {MAX_PIXELS:,} are decoded")
                image.load()
    except DataError as error:
        raise DataError(f"the mask {file} cannot be read: {error}", "it is an image of class numbers or colours") from error
    if image.mode == "1" or image.format == "JPEG":  # whose colours are not those that were saved
        return image.convert("L")
    if image.mode in ("P", "L", "RGB") or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")
