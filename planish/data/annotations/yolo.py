"""YOLO's text files, a line an object: ``class x y width height`` as shares of the sides, or ``class x y x y ...``, a polygon.

They lie beside the images, or in ``labels/`` where those lie in ``images/``. An image without one, or with an empty one, has no objects.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planish.data.annotations.checked import size_of
from planish.data.annotations.noted import NotedImage, NotedObject, note_unused
from planish.data.listing import SPLIT_WORDS, GivenSplit, image_files
from planish.errors import DataError, first_line
from planish.progress import note

_NAME_FILES = ("classes.txt", "obj.names", "names.txt")
_ORIENTED = 9  # words of a line: class and four corners
_LARGEST_YAML = 1_000_000  # bytes
_BEYOND = 1.001  # shares may be rounded
_WORDS: dict[str, GivenSplit] = {"train": "train", "val": "validation", "test": "test"}  # of the YAML file


@dataclass(frozen=True)
class Layout:
    """Where a folder has what.

    Args:
        texts: the text file of each image; None where it has none.
        splits: of images, where the folder says so.
        names: of the classes by number; empty where nobody says.
    """

    texts: dict[Path, Path | None]
    splits: dict[Path, GivenSplit]
    names: dict[int, str]


def yolo_layout(root: Path) -> Layout | None:
    """What a folder has of such files; None where no image has one.

    Raises:
        DataError: its YAML file cannot be used.
    """
    images = image_files(root)
    texts = {image: _text(root, image) for image in images}
    if not any(text is not None and _looks_like_one(text) for text in texts.values()):
        return None
    described = _yaml(root)
    if described is None:
        _tell_of_orphans(root, texts)
        splits = {i: SPLIT_WORDS[w] for i in images for w in map(str.lower, i.relative_to(root).parts[:-1]) if w in SPLIT_WORDS}
        return Layout(texts, splits, _names(root))
    file, content = described
    if "kpt_shape" in content:
        raise DataError(
            f"{file.name} has kpt_shape: its labels are boxes with key points", "boxes or polygons are read", "export boxes alone"
        )
    splits = {}
    for word, split in _WORDS.items():
        listed = _listed(root, file, content, word, images)
        twice = [image for image in listed if image in splits]
        if twice and len(twice) == len(listed):
            note(f"{file.name} gives the images of {splits[twice[0]]} for {split} as well: {split} is cut from train instead")
        elif twice:
            raise DataError(f"{file.name} has {twice[0].name!r} in {splits[twice[0]]} and in {split}", "an image is of one split")
        else:
            splits |= dict.fromkeys(listed, split)
    _tell_of_orphans(root, texts)
    return Layout({image: texts[image] for image in splits}, splits, _numbered(file, content["names"]))


def _numbered(file: Path, names: Any) -> dict[int, str]:
    """Class names by number, of a list or of a mapping either way round."""
    pairs = list(names.items() if isinstance(names, dict) else enumerate(names))
    try:
        if isinstance(names, dict) and not all(str(key).isdigit() for key in names):
            pairs = [(number, name) for name, number in pairs]
        return {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the names in {file.name} cannot be understood: {first_line(error)}", "they are a list, or names by number"
        ) from error


def _tell_of_orphans(root: Path, texts: dict[Path, Path | None]) -> None:
    """Label files that belong to no image, as where a tool has written one name in two ways."""
    known = set(texts.values())
    found = [f for f in sorted(root.rglob("*.txt")) if f not in known and f.name not in _NAME_FILES and _looks_like_one(f)]
    if found:
        shown = ", ".join(f.relative_to(root).as_posix() for f in found[:3])
        bare = sum(text is None for text in texts.values())
        note(
            f"{len(found)} label files have no image of their name and are left out, for example {shown}; {bare} images have no label file"
        )


def read_yolo(root: Path, layout: Layout) -> tuple[list[NotedImage], tuple[str, ...]]:
    """Images and class names, sorted as their numbers are; lines that make no sense are noted as faults.

    Raises:
        DataError: a text file cannot be read.
    """
    rows = {image: _rows(text) if text is not None else [] for image, text in layout.texts.items()}
    numbers = {int(row[1][0]) for lines in rows.values() for row in lines if row[1] and row[1][0].isdigit()}
    names = layout.names or {number: f"class {number}" for number in sorted(numbers)}
    widths = {len(row) for lines in rows.values() for _, row in lines}
    if widths == {_ORIENTED}:
        raise DataError(
            "all labels have 8 numbers after the class, as oriented boxes have", "boxes of 4 numbers, or polygons, are read",
            "export boxes that stand upright",
        )  # fmt: skip
    images, repeated = [], 0
    for image, lines in rows.items():
        key = image.relative_to(root).as_posix()
        noted = NotedImage(key, image, layout.splits.get(image))
        try:
            height, width = size_of(noted)
        except DataError:  # what is broken is told, or left out, when it is decoded
            height = width = 1
        objects, faults = [], []
        twice = len(lines) - len({tuple(words) for _, words in lines})
        repeated += twice
        if twice:
            lines = [row for i, row in enumerate(lines) if row[1] not in [other for _, other in lines[:i]]]
        for place, words in lines:
            try:
                objects.append(_object(words, names, height, width))
            except ValueError as error:
                faults.append(f"line {place} {error}")
        images.append(NotedImage(key, image, layout.splits.get(image), tuple(objects), faults=tuple(faults)))
    if repeated:
        note(f"{repeated} lines stand twice in a label file; each is used once")
    ordered = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    note_unused(ordered, [one for image in images for one in image.objects])
    return sorted(images, key=lambda one: one.key), ordered


def _object(words: list[str], names: dict[int, str], height: int, width: int) -> NotedObject:
    if not words[0].isdigit() or int(words[0]) not in names:
        raise ValueError(f"is of class {words[0]!r}; classes are {', '.join(map(str, sorted(names)))}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError("has words that are no numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"has {len(values)} numbers after the class; a box has 4, a polygon x and y of three corners or more")
    if not all(-_BEYOND + 1 <= value <= _BEYOND for value in values):
        raise ValueError("has numbers outside 0 to 1; they are shares of the sides, not pixels")
    label = names[int(words[0])]
    if len(values) == 4:
        x, y, wide, high = values
        return NotedObject(label, ((x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height))
    polygon = [value * side for value, side in zip(values, [width, height] * (len(values) // 2), strict=True)]
    across, down = polygon[::2], polygon[1::2]
    return NotedObject(label, (min(across), min(down), max(across), max(down)), mask=[polygon])


def _rows(text: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that has any, with its number."""
    try:
        lines = text.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text} cannot be read: {error}", "it is text: class x y width height, a line an object") from error
    return [(place, line.split()) for place, line in enumerate(lines, 1) if line.split()]


def _text(root: Path, image: Path) -> Path | None:
    """The text file of an image: beside it, or under ``labels`` as the image is under ``images``."""
    parts = list(image.relative_to(root).parts)
    places = [i for i, part in enumerate(parts[:-1]) if part.lower() == "images"]
    apart = [root.joinpath(*parts[:i], "labels", *parts[i + 1 :]) for i in places]
    found = [file.with_suffix(".txt") for file in (image, *apart)]
    return next((text for text in found if text.is_file() and text.name not in _NAME_FILES), None)


def _looks_like_one(text: Path) -> bool:
    with text.open("rb") as opened:
        words = opened.readline(10_000).removeprefix(codecs.BOM_UTF8).split()
    return len(words) > 4 and all(word.replace(b".", b"").replace(b"-", b"").replace(b"e", b"").isdigit() for word in words)


def _yaml(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The YAML file that describes the folder, and what it says."""
    import yaml  # which a service has no need of

    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            if file.stat().st_size > _LARGEST_YAML:
                raise DataError(f"{file} has {file.stat().st_size:,} bytes", f"such a file has at most {_LARGEST_YAML:,}")
            text = file.read_text(encoding="utf-8-sig")
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # few lines of them can fill the memory
                raise DataError(f"{file} has aliases", "a description of a data set needs none", "write it out")
            content = yaml.safe_load(text)
        except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{file} cannot be read: {error}", "it is YAML with train, val and names") from error
        if isinstance(content, dict) and "train" in content and isinstance(content.get("names"), dict | list):
            return file, content
    return None


def _listed(root: Path, file: Path, content: dict[str, Any], word: str, images: list[Path]) -> list[Path]:
    """The images of one split: below a folder, of several, or named in a text file."""
    entries = content.get(word) or []
    base = Path(str(content.get("path") or "."))
    found = []
    for entry in [entries] if isinstance(entries, str) else entries:
        # such files often name the folder of another machine, or one above: then what it says is meant from here
        inner = Path(*[part for part in Path(str(entry)).parts if part not in ("..", "/")])
        ways = [file.parent / base / str(entry), file.parent / str(entry), file.parent / inner]
        place = next((way.resolve() for way in ways if way.exists() and way.resolve().is_relative_to(root.resolve())), None)
        if place is None:
            raise DataError(f"{file.name} names {entry!r} for {word}, which is not below {str(root)!r}", "images lie below the data folder")
        if place.is_dir():
            found += [image for image in images if image.resolve().is_relative_to(place)]
        else:
            found += _named(root, place, {image.resolve(): image for image in images})
    return found


def _named(root: Path, file: Path, images: dict[Path, Path]) -> list[Path]:
    """The images that a text file names, a path a line: below its own folder, or below the data folder."""
    lines = [line.strip().replace("\\", "/") for line in _text_of(file).splitlines() if line.strip()]
    found, missing = [], []
    for line in dict.fromkeys(lines):
        ways = [(folder / line).resolve() for folder in (file.parent, root)]
        image = next((images[way] for way in ways if way in images), None)
        if image is None:  # written on another machine: the folders above the data are others
            parts = Path(line).parts
            ways = [(root / Path(*parts[i:])).resolve() for i in range(1, len(parts))]
            image = next((images[way] for way in ways if way in images), None)
        if image is None:
            missing.append(line)
        else:
            found.append(image)
    if missing:
        raise DataError(
            f"{file.name} names {len(missing)} of {len(lines)} images that do not exist: {', '.join(missing[:5])}",
            f"paths are relative to {str(file.parent)!r} or {str(root)!r}",
        )
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}", "it is a text file in UTF-8", "save it so") from error


def _names(root: Path) -> dict[int, str]:
    """Of ``classes.txt`` and its like: a name a line."""
    for folder in (root, root / "labels"):
        for name in _NAME_FILES:
            if (file := folder / name).is_file():
                return dict(enumerate(line.strip() for line in _text_of(file).splitlines() if line.strip()))
    return {}
