"""Reading of label maps, and the classes of their pixel values or colours."""

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
from planish.files.reading import DAMAGED, describe, open_bounded, read_text
from planish.progress import note

IGNORED = 255
_LARGEST_CODE = 65535
_MOST = 255  # maximum number of classes in an 8-bit map
_JPEG = b"\xff\xd8\xff"  # the first bytes of JPEG files
_COLOUR_MAP = "labelmap.txt"  # of CVAT: NAME:RED,GREEN,BLUE:PARTS:ACTIONS
NAME_FILES = ("classes.txt", "labels.txt", "class_names.txt", "classes.json", "class_dict.csv", "classes.csv", "_classes.csv", _COLOUR_MAP)
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_NEAR, _MOSTLY = 32, 0.9  # grey levels that count as near black or near white, and the minimum fraction of such pixels in a binary mask
_STRAY = 4  # from this number of other grey levels on, they are artefacts rather than classes
_RARE = 0.1  # maximum pixel count of all other grey levels, as a fraction of the rarer of black and white
_NOISE = 8  # grey levels by which JPEG may at least change a value
_APART = 16  # minimum distance of named values that can be told apart in JPEG
_COUNTED = 64  # number of masks that are sampled
_COLOUR = 1 << 24  # offset of the codes of colours, so that they differ from all grey values
BLACK = _COLOUR  # the code of black in a colour mask


@dataclass(frozen=True)
class PixelClasses:
    """The classes of the pixel values or colours of label maps.

    Args:
        codes: values or colours, ascending; pixels with other codes are ignored.
        labels: class index of each code.
        class_names: class names by class index.
    """

    codes: tuple[int, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]

    def classes(self, file: Path) -> npt.NDArray[np.uint8]:
        """The class index of each pixel of a mask file, uint8 ``(H, W)``; 255 on ignored pixels."""
        found = read_codes(file)
        places = np.minimum(np.searchsorted(self.codes, found), len(self.codes) - 1)
        known = np.asarray(self.codes)[places] == found
        return np.where(known, np.asarray(self.labels, np.uint8)[places], np.uint8(IGNORED))


def read_codes(file: Path) -> npt.NDArray[np.int64]:
    """The codes of a mask file, int64 ``(H, W)``: pixel values of an indexed or grey image, or colours as ``_COLOUR + 0xRRGGBB``.

    Raises:
        DataError: the file cannot be read.
    """
    pixels = np.asarray(_opened(file)).astype(np.int64)
    return pixels if pixels.ndim == 2 else _COLOUR + (pixels[..., 0] << 16) + (pixels[..., 1] << 8) + pixels[..., 2]


def codes_in(file: Path) -> frozenset[int]:
    """The set of codes in a mask file.

    Raises:
        DataError: the file cannot be read, or has more colours than the maximum number of classes.
    """
    status = file.stat()
    return _codes_in(file, status.st_mtime_ns, status.st_size)


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
    """Height and width of a mask file; only the header is read."""
    with open_bounded(file) as stream, Image.open(stream, formats=FORMATS) as image:
        return image.height, image.width


def is_lossy(file: Path) -> bool:
    """Whether a mask file is a JPEG, whatever its suffix; only the first bytes are read."""
    with open_bounded(file) as stream:
        return stream.read(len(_JPEG)) == _JPEG


def is_8_bit(file: Path) -> bool:
    """Whether the pixels of a mask file are 8-bit, so neither binary nor 16-bit, 32-bit or floating-point; only the header is read."""
    with open_bounded(file) as stream, Image.open(stream, formats=FORMATS) as image:
        return image.mode not in ("1", "F") and not image.mode.startswith("I")


def require_one_palette(root: Path, files: Sequence[Path]) -> None:
    """Require that indexed masks have the same colour for the same value, unless a class file names the values.

    A program that makes files smaller gives each its own palette, and then a value is another class in each file.

    Args:
        root: folder of the data set, with an optional class file; see ``named_codes``.
        files: all mask files.

    Raises:
        DataError: a value has another colour in another file.
    """
    if _given(root)[0]:
        return
    known: dict[int, tuple[str, Path]] = {}
    for file in files:
        for code, colour in _palette(file).items():
            earlier, where = known.setdefault(code, (colour, file))
            if earlier != colour:
                raise DataError(
                    f"the value {code} is {earlier} in {where} and {colour} in {file}",
                    "the values of indexed masks are classes, with one palette for all files",
                    "save the masks as RGB; or name the values in classes.txt if the colours mean nothing",
                )


def _palette(file: Path) -> dict[int, str]:
    """The colours of the values that occur in a mask file, as ``#rrggbb``; empty if it is not indexed."""
    with image_damage_reported(), open_bounded(file) as stream, Image.open(stream, formats=FORMATS) as image:
        colours = bytes(image.getpalette() or ()).hex() if image.mode == "P" else ""
    return {code: f"#{colours[6 * code : 6 * code + 6]}" for code in codes_in(file) if 6 * code < len(colours)} if colours else {}


def named_codes(root: Path, seen: frozenset[int], voc: bool) -> PixelClasses:
    """Determine the classes of a data set from its class file and the codes in its masks.

    Args:
        root: folder of the data set; ``classes.txt`` or a similar file there names the classes: a name per line, JSON, or CSV with
            ``name, r, g, b``.
        seen: all codes in the masks.
        voc: whether values have the class names of Pascal VOC if no file names them.

    Raises:
        DataError: there are no classes or too many, or the file does not name a code in the masks.
    """
    given, source = _given(root)
    if all(code < _COLOUR for code in seen) or all(_is_grey(code) for code in seen):
        meant = {code: code & 255 if code >= _COLOUR else code for code in seen}
        if set(meant.values()) == {0, IGNORED} and not given:
            note("masks hold 0 and 255 only: 255 is taken for the object, not for pixels to be ignored")
            meant = {code: min(value, 1) for code, value in meant.items()}
        names: dict[int, str] = given or (
            dict(enumerate(_VOC)) if voc else {v: f"class {v}" if v else "background" for v in meant.values()}
        )
        if IGNORED in meant.values() and IGNORED not in given and not voc:
            note(f"the value {IGNORED} in masks is taken for pixels to be ignored; name it in classes.json if it is a class")
        meant = {code: value for code, value in meant.items() if value != IGNORED or value in given}
    else:
        meant = {code: code & (_COLOUR - 1) for code in seen}
        names = given or {value: f"#{value:06x}" if value else "background" for value in meant.values()}
    if strange := sorted(set(meant.values()) - set(names)):
        as_text = str if all(code < _COLOUR or _is_grey(code) for code in seen) else "#{:06x}".format
        raise DataError(
            f"masks hold {', '.join(map(as_text, strange[:5]))}, which {source} does not name",
            f"it names {', '.join(map(as_text, list(names)[:10]))}", "name them there",
        )  # fmt: skip
    values = list(given) or sorted(set(meant.values()))
    class_names = tuple(dict.fromkeys(names[value] for value in values))
    if not 1 <= len(class_names) <= _MOST:
        raise DataError(f"masks of {len(class_names)} classes", f"there are 1 to {_MOST}")
    if len(class_names) < len(values):
        note(f"{source} gives one name to several values: they are taken as one class")
    if unused := [name for name in class_names if name not in {names[value] for value in meant.values()}]:
        note(f"{len(unused)} of {len(class_names)} classes are in no mask and keep their place in the order: {', '.join(unused[:10])}")
    codes = tuple(sorted(meant))
    return PixelClasses(codes, tuple(class_names.index(names[meant[code]]) for code in codes), class_names)


def lossy_codes(root: Path, files: Sequence[Path], seen: frozenset[int]) -> PixelClasses | None:
    """The codes of grey masks whose values were altered by JPEG compression or resizing; None if the masks are not of this kind.

    Binary (black and white) masks are thresholded at 128. If a class file names the values, those of JPEG masks are rounded to the nearest
    named value.

    Args:
        root: folder of the data set, with an optional class file; see ``named_codes``.
        files: all mask files, of which a sample is examined.
        seen: all codes in the masks.

    Raises:
        DataError: JPEG compression made the classes ambiguous.
    """
    greys = sorted({code & 255 for code in seen})
    if not all(code < 256 or _is_grey(code) for code in seen) or set(greys) <= {0, IGNORED}:
        return None
    given, source = _given(root)
    lossy = any(map(is_lossy, files))
    if given:
        if not lossy or set(greys) <= set(given):
            return None
        values = np.array(sorted(given))
        if values.max() > 255 or np.diff(values).min(initial=256) < _APART:
            raise DataError(
                f"masks in JPEG hold {len(greys)} values, and {source} names {len(given)}, some next to each other",
                f"JPEG changes values, so that they must be {_APART} apart", "save the masks as PNG",
            )  # fmt: skip
        note(f"masks in JPEG hold {len(greys)} values: each is taken for the nearest of the {len(given)} that {source} names")
        ordered = tuple(dict.fromkeys(given[value] for value in sorted(given)))
        return _all_greys([ordered.index(given[int(values[np.abs(values - grey).argmin()])]) for grey in range(256)], ordered)
    counts = _grey_counts(files)
    strays = counts[1:255]
    ends = counts[:_NEAR].sum(), counts[-_NEAR:].sum()
    mostly = all(ends) and sum(ends) >= _MOSTLY * counts.sum()
    many = np.count_nonzero(strays) >= _STRAY and counts[[0, 255]].min() > strays.max()
    rising = np.flatnonzero(strays).tolist() == list(range(np.count_nonzero(strays)))  # 1, 2, ... may be classes, next to ignored pixels
    few = strays.sum() <= _RARE * counts[[0, 255]].min() and not rising
    if (mostly and (lossy or many)) or few:
        note(f"masks are black and white with {100 * strays.sum() / counts.sum():.1f} % of other greys, as of JPEG: they are cut at 128")
        return _all_greys([int(grey >= 128) for grey in range(256)], ("background", "class 1"))
    groups = 1 + int((np.diff(greys) > _NOISE).sum())
    if lossy and groups < len(greys):
        raise DataError(
            f"masks in JPEG hold {len(greys)} values in {groups} {'groups' if groups > 1 else 'group'}, and nothing names them",
            "JPEG changes values",
            "save the masks as PNG, or name the values that are meant in classes.json",
        )  # fmt: skip
    return None


def _all_greys(labels: Sequence[int], class_names: tuple[str, ...]) -> PixelClasses:
    """Codes that map each of the 256 grey levels, as a value and as a colour, to a class."""
    codes = (*range(256), *(_COLOUR + grey * 0x010101 for grey in range(256)))
    return PixelClasses(codes, (*labels, *labels), class_names)


def _grey_counts(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Pixel counts of each grey level, ``(256,)``, in a sample of all files and a sample of those that are not only black and white."""
    ends = frozenset((0, IGNORED, _COLOUR, _COLOUR + 0xFFFFFF))
    others = [file for file in files if codes_in(file) - ends]
    chosen = dict.fromkeys([*files[:: max(1, len(files) // _COUNTED)], *others[:: max(1, len(others) // _COUNTED)]])
    counts = np.zeros(256, np.int64)
    for file in chosen:
        pixels = read_codes(file) & 255
        counts += np.bincount(pixels.ravel(), minlength=256)
    return counts


def _given(root: Path) -> tuple[dict[int, str], str]:
    """Class names by value or colour from the class file of a data set, and the name of that file; empty if there is none."""
    for file in (root / name for name in NAME_FILES):
        if not file.is_file():
            continue
        name = file.name
        try:
            text = read_text(file)
            if file.suffix == ".json":
                return _of_json(json.loads(text)), name
            if file.suffix == ".csv":
                delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
                return _of_table(list(csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True))), name
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if name == _COLOUR_MAP:
                fields = [line.split(":") for line in lines if not line.startswith("#")]
                return {_code(field[1].split(",")): field[0] for field in fields}, name
            return dict(enumerate(lines)), name
        except DAMAGED as error:
            raise DataError(
                f"{file} cannot be understood: {describe(error)}",
                "it has a name per line, JSON of names and values, CSV (name, r, g, b; name, value; or value, name), or NAME:R,G,B::",
            ) from error
    return {}, "no file"


def _of_json(content: Any) -> dict[int, str]:
    named = dict(enumerate(content)) if isinstance(content, list) else content
    if all(str(key).isdigit() for key in named):
        if wrong := [name for name in named.values() if not isinstance(name, str | int | float) or isinstance(name, bool)]:
            raise ValueError(f"{str(wrong[0])[:40]} is no name")
        return {int(key): str(name) for key, name in sorted(named.items(), key=lambda item: int(item[0]))}
    found = {_code(value): str(name) for name, value in named.items()}
    return found if any(isinstance(value, list) for value in named.values()) else dict(sorted(found.items()))


def _of_table(rows: list[list[str]]) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, row in enumerate([cell.strip() for cell in row] for row in rows):
        if len(row) > 1 and row[0].isdigit() and not row[1].isdigit():  # the value first
            row = [row[1], *(row[2:] if _all_digits(row[2:5], 3) else row[:1])]
        if _all_digits(row[1:4], 3):
            found[_code([int(cell) for cell in row[1:4]])] = row[0]
        elif _all_digits(row[1:2], 1):
            found[int(row[1])] = row[0]
        elif any(row) and place:  # the first row may be a header
            raise ValueError(f"row {place + 1} has no value: {', '.join(row)[:60]}")
    if not found:
        raise ValueError("no row has a name and a value")
    return found


def _all_digits(cells: list[str], count: int) -> bool:
    return len(cells) == count and all(cell.isdigit() for cell in cells)


def _code(value: Any) -> int:
    if isinstance(value, int):
        return value
    red, green, blue = (int(part) for part in value)
    return (red << 16) + (green << 8) + blue


def _is_grey(code: int) -> bool:
    return code >= _COLOUR and (code >> 16) & 255 == (code >> 8) & 255 == code & 255


def _opened(file: Path) -> Image.Image:
    try:
        with image_damage_reported(), open_bounded(file) as stream, Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"an image of {image.width:,} x {image.height:,} pixels", f"at most {MAX_PIXELS:,} are decoded")
            image.load()
    except DataError as error:
        raise DataError(f"the mask {file} cannot be read: {error}", "it is an image of class numbers or colours") from error
    if image.mode == "1" or image.format == "JPEG":  # JPEG does not preserve colours
        return image.convert("L")
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and (values == np.round(values)).all() and 0 <= values.min() <= values.max() <= _LARGEST_CODE):
            raise DataError(f"the mask {file} has floating-point pixels that are no class numbers", "a class is a whole number from 0 on")
        return Image.fromarray(values.astype(np.int32))
    if image.mode in ("P", "L", "RGB") or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode == "LA" else "RGB")
