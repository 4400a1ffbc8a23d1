"""Reader of Pascal VOC XML: one file per image, next to it or in ``Annotations/`` with the images in ``JPEGImages/``.

VOC boxes are 1-based and include the last pixel, so 1 is subtracted from left and top, while right and bottom do not change. Tools that
write such files often count from 0; either interpretation is off by at most half a pixel on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation
from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import EXTENSIONS, SPLIT_WORDS, GivenSplit, files_below
from planish.data.sources.unsupported_formats import foreign_format
from planish.errors import DataError
from planish.files.reading import read_bytes, read_text, wrap_parse_errors
from planish.progress import note

_LARGEST = 10_000_000  # maximum size of a file in bytes


def voc_files(root: Path) -> dict[Path, Path | None]:
    """The XML files of a folder, each with its image next to it or in ``JPEGImages/``, or None; empty if no file has an image."""
    found = sorted(file for file in files_below(root) if file.suffix.lower() == ".xml" and foreign_format(file) is None)
    by_stem: dict[Path, dict[str, Path]] = {}
    images = {file: _image(root, file, by_stem) for file in found}
    return images if any(images.values()) else {}


def read_voc(
    root: Path, files: dict[Path, Path | None], inventory: Inventory | None = None
) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Read the annotated images, sorted by key, and the class names, sorted.

    Args:
        root: folder that keys are relative to.
        files: from ``voc_files``.
        inventory: records the files that are read, and those without an image.

    Raises:
        DataError: a file is not Pascal VOC XML.
    """
    splits = given_splits(root)
    inventory = inventory or Inventory()
    inventory.use([*files, *root.rglob("ImageSets/*/*.txt")])
    alone = [file for file, path in files.items() if path is None]
    lost = sum(sum(1 for _ in _parse(file).iter("object")) for file in alone)
    inventory.leave_out("annotation files", "no image of that name", alone, root, lost)
    images = []
    of_image: dict[Path, Path] = {}
    for file, path in files.items():
        if path is None:
            continue
        tree = _parse(file)
        size = tree.find("size")
        height, width = (_side(size, n, file) for n in ("height", "width")) if size is not None else (0, 0)
        if path in of_image:
            raise DataError(f"{of_image[path]} and {file} are both of the image {path.name}", "an image has one XML file", "remove one")
        of_image[path] = file
        split = split_of(splits, path) or next(
            (SPLIT_WORDS[p.lower()] for p in path.relative_to(root).parts[:-1] if p.lower() in SPLIT_WORDS), None
        )
        objects, faults = [], []
        for place, one in enumerate(tree.iter("object")):
            try:
                objects.append(_object(one))
            except ValueError as error:
                faults.append(f"object {place} in {file.name} {error}")
        noted = (height, width) if height and width else None
        images.append(AnnotatedImage(path.relative_to(root).as_posix(), path, split, tuple(objects), noted, faults=tuple(faults)))
    if absent := sorted({stem for _, stem in splits} - {path.stem for path in files.values() if path is not None}):
        note(f"{len(absent)} names in ImageSets have no image with an XML file, for example {', '.join(absent[:3])}")
    names = sorted({o.label for image in images for o in image.objects})
    return sorted(images, key=lambda image: image.key), tuple(names)


def _object(one: ElementTree.Element) -> ObjectAnnotation:
    """Raises:
    ValueError: the annotation is invalid; the message continues "object 3 in FILE ".
    """
    box = one.find("bndbox")
    if box is None:
        others = [child.tag for child in one if child.tag in ("robndbox", "polygon", "keypoints")]
        raise ValueError(f"has no bndbox, but {others[0]}, which is not read" if others else "has no bndbox")
    try:
        left, top, right, bottom = (float(box.findtext(name) or "") for name in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raise ValueError("has a bndbox whose xmin, ymin, xmax and ymax are not all numbers") from None
    name = (one.findtext("name") or "").strip() or "object"
    difficult = (one.findtext("difficult") or "").strip().lower() in ("1", "true")
    return ObjectAnnotation(name, (left - 1, top - 1, right, bottom), difficult=difficult)


def _side(size: ElementTree.Element, name: str, file: Path) -> int:
    try:
        return int(float(size.findtext(name) or 0))
    except (ValueError, OverflowError) as error:
        raise DataError(f"{file} has a {name} of {size.findtext(name)!r}", "sizes are numbers of pixels") from error


def _parse(file: Path) -> ElementTree.Element:
    """Parse a file of limited size, and reject document type declarations: entities can exhaust memory or read other files."""

    def refuse(*declared: object) -> None:
        raise DataError(f"{file} defines entities", "an annotation needs none", "do not trust this file")

    parser, builder = expat.ParserCreate(), ElementTree.TreeBuilder()
    parser.StartDoctypeDeclHandler = refuse  # independent of the encoding of the file
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = builder.start, builder.end, builder.data
    rule = "it is XML as Pascal VOC has it"
    with wrap_parse_errors(file, DataError, rule):
        try:
            parser.Parse(read_bytes(file, _LARGEST), True)
        except expat.ExpatError as error:
            raise DataError(f"{file} cannot be read: {error}", rule) from error
        tree = builder.close()
    if tree.tag != "annotation":
        raise DataError(f"{file} has the element {tree.tag[:60]!r} at its root", "in Pascal VOC's XML it is 'annotation'", "move it away")
    return tree


def _image(root: Path, file: Path, by_stem: dict[Path, dict[str, Path]]) -> Path | None:
    """The image of an XML file, whatever the case of its extension; ``by_stem`` caches the images of each folder."""
    inner = file.parent.relative_to(root).parts
    # such as annotations/train/ beside images/train/, and annotations/xmls/ beside images/
    above = [(root.joinpath(*inner[:i]), inner[i + 1 :]) for i in reversed(range(len(inner)))]
    places = [base.joinpath(word, *rest) for base, below in above for rest in (below, ()) for word in ("JPEGImages", "images")]
    for folder in dict.fromkeys((file.parent, *places)):
        if folder not in by_stem:
            there = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
            by_stem[folder] = {path.stem: path for path in there if path.suffix.lower() in EXTENSIONS}
        if file.stem in by_stem[folder]:
            return by_stem[folder][file.stem]
    return None


def given_splits(root: Path) -> dict[tuple[Path, str], GivenSplit]:
    """The splits in ``ImageSets/Main/train.txt`` and similar files, by the folder that they hold for and the stem of the image.

    With several ``ImageSets``, as of VOC2007 and VOC2012, each holds for the folder that it is in; a single one holds for ``root``.

    Raises:
        DataError: an image is in two splits of one folder.
    """
    found: dict[tuple[Path, str], GivenSplit] = {}
    folders = sorted(f for f in root.rglob("ImageSets/*") if f.is_dir())
    several = len({folder.parent for folder in folders}) > 1
    for folder in folders:
        here: dict[str, GivenSplit] = {}
        for file in sorted(folder.glob("*.txt")):
            if (split := SPLIT_WORDS.get(file.stem)) is None:
                continue
            with wrap_parse_errors(file, DataError, "it is text with the name of an image a line"):
                lines = read_text(file, errors="surrogateescape").splitlines()  # like file names
            for stem in _stems(lines):
                if here.setdefault(stem, split) != split:
                    raise DataError(f"{folder} has {stem!r} in {here[stem]} and in {split}", "an image is of one split")
        found |= {(folder.parent.parent if several else root, stem): split for stem, split in here.items()}
    return found


def split_of(splits: Mapping[tuple[Path, str], GivenSplit], image: Path) -> GivenSplit | None:
    """The split of an image in ``given_splits``; None if it is in none."""
    return next((splits[folder, image.stem] for folder in image.parents if (folder, image.stem) in splits), None) if splits else None


def _stems(lines: list[str]) -> list[str]:
    """The names in a list of images; they may hold spaces, and -1, 0 or 1 follows each in the list of a class."""
    words = [line.split() for line in lines if line.strip()]
    if all(len(some) > 1 and some[-1] in ("-1", "0", "1") for some in words):
        lines = [line.rsplit(maxsplit=1)[0] for line in lines if line.strip()]
    return [line.strip().strip('"') for line in lines if line.strip()]
