"""Reader of YOLO label files, one line per object: a normalized box ``class x y width height`` or a polygon ``class x y x y ...``.

They are next to the images, or in ``labels/`` if the images are in ``images/``. An image without a label file, or with an empty one, has
no objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation, note_unused
from planish.data.annotations.validation import are_corners, size_of
from planish.data.annotations.yolo_text import class_number, has_label_line
from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import SPLIT_WORDS, GivenSplit, files_below, image_files
from planish.errors import DataError, first_line
from planish.files.reading import read_text, real_path
from planish.progress import note

_NAME_FILES = ("classes.txt", "obj.names", "names.txt")
_BOX = 5  # values per line of boxes: class, centre and size
_ORIENTED = 9  # values per line of oriented boxes: class and four corners
_FEW_LINES = 3  # from this number of lines on, it is no coincidence if polygons look like boxes with key points
_INSIDE = 0.001  # tolerance for key points that rounding puts outside their box
_BEYOND_EDGE = (-0.01, 1.01)  # sides of boxes outside this range are not due to rounding
_BEYOND = 1.001  # upper bound of normalized coordinates, with a tolerance for rounding


@dataclass(frozen=True)
class Layout:
    """The images, label files, splits and class names of a YOLO data set.

    Args:
        texts: label file of each image, or None.
        splits: split of each image that has a given one.
        names: class names by index; empty if they are not given.
    """

    texts: dict[Path, Path | None]
    splits: dict[Path, GivenSplit]
    names: dict[int, str]


def has_yolo(root: Path) -> bool:
    """Whether any image of a folder has a YOLO label file."""
    texts = (_text(root, image) for image in image_files(root))
    return any(text is not None and has_label_line(text) for text in texts)


def yolo_layout(root: Path, inventory: Inventory | None = None, description: Path | None = None) -> Layout | None:
    """Find the label files, splits and class names of a folder; None if no image has a label file.

    Args:
        root: the folder.
        inventory: records the files that are read, and label files without an image.
        description: its YAML file; None to use the one in the folder, if there is one.

    Raises:
        DataError: the YAML file cannot be used, or there are several.
    """
    if not has_yolo(root):
        return None
    inventory = inventory or Inventory()
    images = image_files(root)
    texts = {image: _text(root, image) for image in images}
    inventory.use(text for text in texts.values() if text is not None)
    described = _yaml(root, description)
    given = {} if described is None else _numbered(*described)
    if described is not None:
        inventory.use([described[0]])
    if described is None or "train" not in described[1]:
        texts = _without_orphans(root, texts, inventory)
        splits = {i: SPLIT_WORDS[w] for i in images for w in map(str.lower, i.relative_to(root).parts[:-1]) if w in SPLIT_WORDS}
        return Layout(texts, splits, given or _names(root, texts, inventory))
    file, content = described
    if content.get("kpt_shape"):
        raise DataError(
            f"{file.name} has kpt_shape: its labels are boxes with key points", "boxes or polygons are read", "export boxes alone"
        )
    splits = {}
    order: tuple[GivenSplit, ...] = ("train", "validation", "test")
    for split, word in ((split, word) for split in order for word in content if SPLIT_WORDS.get(word) == split):
        listed = _listed(root, file, content, word, images, inventory)
        twice = [image for image in listed if image in splits]
        if twice and len(twice) == len(listed):
            note(f"{file.name} gives the images of {splits[twice[0]]} for {split} as well: {split} is cut from train instead")
        elif twice:
            raise DataError(f"{file.name} has {twice[0].name!r} in {splits[twice[0]]} and in {split}", "an image is of one split")
        else:
            splits |= dict.fromkeys(listed, split)
    texts = _without_orphans(root, texts, inventory)
    return Layout({image: texts[image] for image in splits if image in texts}, splits, given)


def _numbered(file: Path, content: dict[str, Any]) -> dict[int, str]:
    """Class names by index, from a list or a mapping in either direction.

    Raises:
        DataError: ``names`` has another type, or its length differs from ``nc``.
    """
    names = content["names"]
    rule = "they are a list of texts, or texts by number; what YAML reads as true, false or null is quoted"
    if not isinstance(names, dict | list):
        raise DataError(f"the names in {file.name} are {str(names)[:60]!r}", rule)
    pairs = list(names.items() if isinstance(names, dict) else enumerate(names))
    try:
        if isinstance(names, dict) and not all(str(key).isdigit() for key in names):
            pairs = [(number, name) for name, number in pairs]
        numbered = {int(number): name for number, name in pairs}
    except (TypeError, ValueError) as error:
        raise DataError(f"the names in {file.name} cannot be understood: {first_line(error)}", rule) from error
    for name in numbered.values():
        if isinstance(name, bool) or not isinstance(name, str | int | float) or not str(name).strip():
            raise DataError(f"the names in {file.name} hold {str(name)[:60]}", rule)
    if isinstance(content.get("nc"), int) and content["nc"] != len(numbered):
        raise DataError(f"{file.name} says nc: {content['nc']}, and names {len(numbered)} classes", "both are the number of classes")
    return {number: str(name) for number, name in numbered.items()}


def _without_orphans(root: Path, texts: dict[Path, Path | None], inventory: Inventory) -> dict[Path, Path | None]:
    """Exclude label files without an image (for example when a tool spelled a name in two ways). In that case also exclude images without a
    label file: the label file may be theirs, so they cannot be assumed to have no objects."""
    known = set(texts.values())
    found = [
        f for f in files_below(root)
        if f.suffix.lower() == ".txt" and f not in known and f.name not in _NAME_FILES and has_label_line(f)
    ]  # fmt: skip
    images_of: dict[Path, list[Path]] = {}
    for image, text in texts.items():
        if text is not None:
            images_of.setdefault(text, []).append(image)
    if shared := [sorted(of) for of in images_of.values() if len(of) > 1]:
        names = ", ".join(image.relative_to(root).as_posix() for image in shared[0])
        note(f"{len(shared)} label files belong to several images, which all have their objects: for example {names}")
    if not found:
        return texts
    inventory.leave_out("annotation files", "no image of that name", sorted(found), root, sum(len(_rows(f)) for f in found))
    bare = sorted(image for image, text in texts.items() if text is None)
    inventory.leave_out("images", "no label file, while there are label files without an image", bare, root)
    return {image: text for image, text in texts.items() if text is not None}


def read_yolo(root: Path, layout: Layout) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Read the annotated images, sorted by key, and the class names, in the order of their indices; invalid lines become faults.

    Args:
        root: folder that keys are relative to.
        layout: from ``yolo_layout``.

    Raises:
        DataError: a label file cannot be read, or all labels are oriented boxes or key points.
    """
    rows = {image: _rows(text) if text is not None else [] for image, text in layout.texts.items()}
    numbers = {number for lines in rows.values() for _, words in lines if words and (number := class_number(words[0])) is not None}
    names = layout.names or {number: f"class {number}" for number in sorted(numbers)}
    _refuse_corners([words for lines in rows.values() for _, words in lines if len(words) == _BOX])
    _refuse_other_kinds([words for lines in rows.values() for _, words in lines])
    if len(set(names.values())) < len(names):
        note("several classes have one name: they are taken as one")
    images = []
    for image, lines in rows.items():
        key = image.relative_to(root).as_posix()
        noted = AnnotatedImage(key, image, layout.splits.get(image))
        try:
            height, width = size_of(noted)
        except DataError:  # broken images are reported or skipped later, when they are decoded
            height = width = 1
        objects, faults = [], []
        for place, words in lines:
            try:
                objects.append(_object(words, names, height, width))
            except ValueError as error:
                faults.append(f"line {place} {error}")
        images.append(AnnotatedImage(key, image, layout.splits.get(image), tuple(objects), faults=tuple(faults)))
    ordered = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    note_unused(ordered, [one for image in images for one in image.objects])
    return sorted(images, key=lambda one: one.key), ordered


def _refuse_corners(lines: list[list[str]]) -> None:
    """Raises:
    DataError: boxes are left, top, right and bottom.
    """
    try:
        values = np.array([words[1:] for words in lines], np.float64).reshape(-1, 4)
    except ValueError:
        return
    first, second = values[:, :2], values[:, 2:]
    beyond = (first - second / 2 < _BEYOND_EDGE[0]) | (first + second / 2 > _BEYOND_EDGE[1])
    if (np.abs(values) <= _BEYOND).all() and are_corners(first, second, beyond):
        raise DataError(
            "boxes are left, top, right and bottom: read as x, y, width and height, many go beyond the image",
            "a line is class, x and y of the centre, width and height, as shares of the sides",
            "convert them",
        )


def _refuse_other_kinds(lines: list[list[str]]) -> None:
    """Raises:
    DataError: all lines are oriented boxes, or all are boxes with key points.
    """
    widths = {len(words) for words in lines}
    if widths == {_ORIENTED}:
        raise DataError(
            "all labels have 8 numbers after the class, as oriented boxes have", "boxes of 4 numbers, or polygons, are read",
            "export boxes that stand upright",
        )  # fmt: skip
    if len(widths) != 1 or min(widths) < 7:
        return
    try:
        values = np.array([words[1:] for words in lines], dtype=np.float64)
    except ValueError:
        return
    boxes, rest = values[:, :4], values[:, 4:]
    for each in (3, 2):  # values per key point, with and without its visibility
        if rest.shape[1] % each:
            continue
        points = rest.reshape(len(rest), -1, each)
        inside = np.abs(points[..., :2] - boxes[:, None, :2]) <= boxes[:, None, 2:] / 2 + _INSIDE
        absent = (points[..., :2] == 0).all(-1)
        if (inside.all(-1) | absent).all() and (each == 2 or np.isin(points[..., 2], (0, 1, 2)).all()) and len(lines) >= _FEW_LINES:
            raise DataError(
                f"all labels have {values.shape[1]} numbers after the class: a box, and key points within it",
                "boxes of 4 numbers, or polygons, are read", "export boxes alone",
            )  # fmt: skip


def _object(words: list[str], names: dict[int, str], height: int, width: int) -> ObjectAnnotation:
    number = class_number(words[0])
    if number is None or number not in names:
        raise ValueError(f"is of class {words[0]!r}; classes are {', '.join(map(str, sorted(names)))}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError("has words that are no numbers") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"has {len(values)} numbers after the class; a box has 4, a polygon x and y of three corners or more")
    if not all(-_BEYOND + 1 <= value <= _BEYOND for value in values):
        raise ValueError("has numbers outside 0 to 1; they are shares of the sides, not pixels")
    label = names[number]
    if len(values) == 4:
        x, y, wide, high = values
        return ObjectAnnotation(label, ((x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height))
    polygon = [value * side for value, side in zip(values, [width, height] * (len(values) // 2), strict=True)]
    across, down = polygon[::2], polygon[1::2]
    return ObjectAnnotation(label, (min(across), min(down), max(across), max(down)), mask=[polygon])


def _rows(text: Path) -> list[tuple[int, list[str]]]:
    """The words of each non-blank line, with the line number."""
    try:
        lines = read_text(text).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{text} cannot be read: {error}", "it is text: class x y width height, a line an object") from error
    return [(place, line.split()) for place, line in enumerate(lines, 1) if line.split()]


def _text(root: Path, image: Path) -> Path | None:
    """The label file of an image, or None: next to the image, or at the same place below ``labels`` as the image is below ``images``."""
    parts = list(image.relative_to(root).parts)
    places = [i for i, part in enumerate(parts[:-1]) if part.lower() == "images"]
    apart = [root.joinpath(*parts[:i], word, *parts[i + 1 :]) for i in places for word in ("labels", "Labels", "LABELS")]
    found = [file.with_suffix(suffix) for file in (image, *apart) for suffix in (".txt", ".TXT")]
    return next((text for text in found if text.is_file() and text.name not in _NAME_FILES), None)


def _yaml(root: Path, description: Path | None) -> tuple[Path, dict[str, Any]] | None:
    """The YAML file that describes the folder, and its contents; None if there is none.

    Raises:
        DataError: the file cannot be read or has no class names, or there are several.
    """
    from planish.files.yaml_text import parse_yaml, parse_yaml_words  # imported here since a service does not need it

    found = []
    for file in [description] if description is not None else sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            text = read_text(file)
            content = parse_yaml(text)
            if isinstance(content, dict) and "names" in content:
                content["names"] = parse_yaml_words(text)["names"]
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}", "it is YAML with train, val and names") from error
        if isinstance(content, dict) and content.get("names"):
            found.append((file, content))
        elif description is not None:
            raise DataError(f"{file} has no names", "it is YAML with train, val and names")
    if len(found) > 1:
        raise DataError(
            f"{', '.join(file.name for file, _ in found)} in {str(root)!r} each describe the data", "one of them is meant",
            f"name it instead of the folder: {found[0][0]}",
        )  # fmt: skip
    return found[0] if found else None


def _listed(root: Path, file: Path, content: dict[str, Any], word: str, images: list[Path], inventory: Inventory) -> list[Path]:
    """The images of one split, given in the YAML file as a folder, a text file of paths, or a list of them."""
    entries = content.get(word) or []
    base = Path(str(content.get("path") or "."))
    found = []
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{file.name} has {str(entries)[:60]!r} for {word}", "it is a folder, a text file, or a list of them")
    for entry in entries:
        # these files often contain paths of another machine or of a parent folder, so the last parts of the path are tried here as well
        inner = [part for part in Path(entry.replace("\\", "/")).parts if part not in ("..", "/")]
        guesses = [file.parent / base / entry, file.parent / entry, *(file.parent.joinpath(*inner[i:]) for i in range(len(inner)))]
        place = next(
            (real_path(guess) for guess in guesses if guess.exists() and real_path(guess).is_relative_to(real_path(root))),
            None,
        )
        if place is None and SPLIT_WORDS[word] == "test":  # Roboflow writes it even if there are no test images
            inventory.assume(f"{file.name} names {entry} for test, which does not exist: test is cut from train")
            continue
        if place is None:
            raise DataError(f"{file.name} names {entry!r} for {word}, which is not below {str(root)!r}", "images lie below the data folder")
        if place not in [real_path(guess) for guess in guesses[:2]]:
            inventory.assume(f"{file.name} names {entry} for {word}, which is taken from here: {place.relative_to(real_path(root))}")
        if place.is_dir():
            found += [image for image in images if real_path(image).is_relative_to(place)]
        else:
            inventory.use([place])
            found += _named(root, place, {real_path(image): image for image in images})
    return found


def _named(root: Path, file: Path, images: dict[Path, Path]) -> list[Path]:
    """The images listed in a text file, one path per line, relative to the folder of the file or to the data folder."""
    lines = [line.strip().replace("\\", "/") for line in _text_of(file, "surrogateescape").splitlines() if line.strip()]  # like file names
    found, missing = [], []
    for line in dict.fromkeys(lines):
        guesses = [real_path(folder / line) for folder in (file.parent, root)]
        image = next((images[guess] for guess in guesses if guess in images), None)
        if image is None:  # paths of another machine: ignore the leading folders
            parts = Path(line).parts
            guesses = [real_path(root / Path(*parts[i:])) for i in range(1, len(parts))]
            image = next((images[guess] for guess in guesses if guess in images), None)
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


def _text_of(file: Path, errors: str = "strict") -> str:
    try:
        return read_text(file, errors=errors)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}", "it is a text file in UTF-8", "save it so") from error


def _names(root: Path, texts: dict[Path, Path | None], inventory: Inventory) -> dict[int, str]:
    """Class names by index, from ``classes.txt`` or a similar file with a name per line; empty if there is none.

    Args:
        root: the folder; its own file is preferred to those beside label files.
        texts: label file of each image, or None.
        inventory: records the files that are read.

    Raises:
        DataError: files beside label files differ, or a line between names is empty.
    """
    beside = sorted({text.parent for text in texts.values() if text is not None} - {root})
    found: tuple[Path, list[str]] | None = None
    for folder in (root, root / "labels", *beside):
        file = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
        if file is None:
            continue
        inventory.use([file])
        names = [line.strip() for line in _text_of(file).rstrip().splitlines()]
        if "" in names:
            raise DataError(
                f"{file}, line {names.index('') + 1} is empty", "each line is the name of a class, from class 0 on", "delete it"
            )
        if found is None:
            found = file, names
        elif found[0].parent != root and names != found[1]:
            raise DataError(f"{found[0]} and {file} name other classes", "all label files number alike", f"put one {file.name} in {root}")
    return {} if found is None else dict(enumerate(found[1]))
