"""Reader of mask images: one label map per image, one instance map per image (pixel values are object ids), or one mask file per object.

Images are in ``images/`` (``img``, ``JPEGImages``). Masks have the same file names: label maps in a sibling folder ``masks/``, ``labels/``,
``annotations/`` or ``SegmentationClass/``, instance maps in ``instances/`` or ``SegmentationObject/``, and masks of single objects in
``masks/IMAGE/*.png``, whose class is the name of a subfolder, or the part of the file name before a number. In an instance map, 0 and black
are the background, and 255 in an 8-bit map marks borders and ignored pixels; every other value or colour is an object.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from planish.data.annotations.annotated_image import AnnotatedImage, ObjectAnnotation
from planish.data.annotations.map_codes import (
    BLACK,
    IGNORED,
    PixelClasses,
    codes_in,
    is_8_bit,
    is_lossy,
    lossy_codes,
    named_codes,
    read_codes,
    require_one_palette,
)
from planish.data.annotations.voc import given_splits, split_of
from planish.data.sources.listing import IMAGE_FOLDERS, MASK_FOLDERS, SPLIT_WORDS, GivenSplit, image_files
from planish.errors import DataError
from planish.progress import Stage, note

_OBJECTS = ("instances", "segmentationobject")
_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_gt", "_l", "_seg", "_segmentation", "_labeltrainids", "_labelids", "_annotation")
_BESIDE = ("_mask", "_label", "_gt", "_segmentation")  # endings of masks in the folder of their images
# Cityscapes: image x_leftImg8bit, mask x_gtFine_labelIds
_OF_IMAGE = ("_leftimg8bit", "_image", "_img", "_sat")
_OF_MASK = ("_gtfine", "_gtcoarse")
_BACKGROUND = (0, BLACK)  # codes of pixels without an object
_MIDDLE_GREY = 128  # JPEG changes the values of black and white masks
_NUMBERED = re.compile(r"([A-Za-z][A-Za-z_ -]*?)[-_ ]*\d+")


_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Masked:
    """The mask files of an image.

    Args:
        image: the image file.
        labels: its label map, or None.
        objects: its instance map, whose values are object ids, or None.
        singles: mask files of single objects.
    """

    image: Path
    labels: Path | None
    objects: Path | None
    singles: tuple[Path, ...]


def masked_images(root: Path) -> list[Masked]:
    """The images of a folder that have masks, sorted by path."""
    found = []
    by_name: dict[Path, dict[str, Path]] = {}
    _beside.cache_clear()  # folders may have been added since the last call
    files = image_files(root)
    for image in files:
        parts = image.relative_to(root).parts
        for place in (i for i, part in enumerate(parts[:-1]) if part.lower() in IMAGE_FOLDERS):
            base, inner = root.joinpath(*parts[:place]), parts[place + 1 : -1]
            labels = _file(base, inner, image.stem, MASK_FOLDERS, by_name)
            objects = _file(base, inner, image.stem, _OBJECTS, by_name)
            singles = () if labels else tuple(_singles(base, inner, image, parts[place]))
            if labels or objects or singles:
                found.append(Masked(image, labels, objects, singles))
                break
    return sorted(found or _masks_beside(files), key=lambda one: one.image)


def _masks_beside(files: list[Path]) -> list[Masked]:
    """The images that have a mask next to them, such as ``1.jpg`` and ``1_mask.png``; none unless most images have one."""
    by_name = {(file.parent, file.stem.lower()): file for file in files}
    masks = {
        image: by_name[image.parent, image.stem.lower() + ending]
        for image in files
        for ending in _BESIDE
        if (image.parent, image.stem.lower() + ending) in by_name
    }
    return [Masked(image, mask, None, ()) for image, mask in masks.items()] if 3 * len(masks) > len(files) else []


def read_label_maps(root: Path, masked: list[Masked]) -> tuple[list[AnnotatedImage], PixelClasses]:
    """Read the images with their label map files, and the classes of the values or colours in the maps.

    Raises:
        DataError: a map cannot be read, or the classes cannot be determined; see ``lossy_codes``, ``named_codes`` and
            ``require_one_palette``.
    """
    splits = given_splits(root)
    images: list[AnnotatedImage] = []
    seen: set[int] = set()
    with Stage("reading masks", len(masked)) as stage:
        for one in masked:
            if one.labels is None:
                continue
            images.append(AnnotatedImage(_key(root, one.image), one.image, _split(root, one.image, splits), labels=one.labels))
            seen |= codes_in(one.labels)
            stage.advance()
    files = [one.labels for one in masked if one.labels is not None]
    if not _is_voc(masked):
        require_one_palette(root, files)
    return images, lossy_codes(root, files, frozenset(seen)) or named_codes(root, frozenset(seen), _is_voc(masked))


def read_object_masks(root: Path, masked: list[Masked]) -> tuple[list[AnnotatedImage], tuple[str, ...]]:
    """Read the images with their objects, and the class names, sorted.

    Raises:
        DataError: a mask cannot be read.
    """
    splits, images = given_splits(root), []
    names = _class_names(root, masked)
    with_ignored: list[Path] = []
    with Stage("reading masks", len(masked)) as stage:
        for one in masked:
            objects = tuple(_of_map(one, names, with_ignored) if one.objects else _of_singles(one))
            images.append(AnnotatedImage(_key(root, one.image), one.image, _split(root, one.image, splits), objects))
            stage.advance()
    if with_ignored and not _is_voc(masked):
        note(
            f"the value {IGNORED} in {len(with_ignored)} 8-bit instance maps is taken for borders or pixels to be ignored, for example in "
            f"{_key(root, with_ignored[0])}; in 16-bit maps it is an object"
        )
    return images, tuple(sorted({o.label for image in images for o in image.objects}))


def _of_singles(one: Masked) -> Iterator[ObjectAnnotation]:
    for file in one.singles:
        codes = read_codes(file)
        inside = ~np.isin(codes, _BACKGROUND) & (codes >= (_MIDDLE_GREY if is_lossy(file) else 0))
        named = _NUMBERED.fullmatch(file.stem)
        between = file.parent.name if file.parent.name != one.image.stem and file.parent.name.lower() not in MASK_FOLDERS else ""
        if (found := _object(between or (named[1].strip() if named else "object"), inside)) is not None:
            yield found


def _of_map(one: Masked, names: dict[int, str], with_ignored: list[Path]) -> Iterator[ObjectAnnotation]:
    """The objects of an instance map; adds its file to ``with_ignored`` if it has ignored pixels.

    Raises:
        DataError: it is a JPEG, or cannot be read.
    """
    assert one.objects is not None
    if is_lossy(one.objects):
        raise DataError(f"the instance map {one.objects} is a JPEG", "each value is an object, and JPEG changes values", "save it as PNG")
    numbers = read_codes(one.objects)
    kinds = read_codes(one.labels) if one.labels else None
    for number in np.unique(numbers):
        if number in _BACKGROUND:
            continue
        if number == IGNORED and is_8_bit(one.objects):
            with_ignored.append(one.objects)
            continue
        inside, label = numbers == number, "object"
        if kinds is not None and kinds.shape == numbers.shape:
            values, counts = np.unique(kinds[inside], return_counts=True)
            label = names.get(int(values[counts.argmax()]), f"class {values[counts.argmax()]}")
        if (found := _object(label, inside)) is not None:
            yield found


def _object(label: str, inside: np.ndarray) -> ObjectAnnotation | None:
    from pycocotools import mask as coco

    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    lengths = coco.encode(np.asfortranarray(inside, dtype=np.uint8))
    box = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    return ObjectAnnotation(label, box, area=float(inside.sum()), mask={"size": list(inside.shape), "counts": lengths["counts"]})


def _class_names(root: Path, masked: list[Masked]) -> dict[int, str]:
    """Class names by value or colour of the label maps that accompany the instance maps."""
    seen = frozenset[int]().union(*(codes_in(one.labels) for one in masked if one.labels))
    if not seen:
        return {}
    if not _is_voc(masked):
        require_one_palette(root, [one.labels for one in masked if one.labels])
    codes = named_codes(root, seen, _is_voc(masked))
    return {code: codes.class_names[label] for code, label in zip(codes.codes, codes.labels, strict=True)}


def _is_voc(masked: list[Masked]) -> bool:
    return any(one.labels is not None and "SegmentationClass" in one.labels.parts for one in masked)


def _file(base: Path, inner: tuple[str, ...], stem: str, words: Collection[str], by_name: dict[Path, dict[str, Path]]) -> Path | None:
    """The mask file of an image, or None; ``by_name`` caches the mask files of each folder by lower-case stem."""
    stem = stem.lower()
    stems = [stem, *(stem.removesuffix(word) for word in _OF_IMAGE if stem.endswith(word))]
    for folder in _beside(base):
        place = folder.joinpath(*inner)
        if folder.name.lower() not in words or not place.is_dir():
            continue
        if place not in by_name:
            files = sorted((f for f in place.iterdir() if f.suffix.lower() in _SUFFIXES), key=lambda f: _SUFFIXES.index(f.suffix.lower()))
            by_name[place] = {file.stem.lower(): file for file in reversed(files)}
        names = (one + of + ending for one in stems for ending in _ENDINGS for of in ("", *_OF_MASK))
        if found := next((by_name[place][name] for name in names if name in by_name[place]), None):
            return found
    return None


def _singles(base: Path, inner: tuple[str, ...], image: Path, images: str) -> Iterator[Path]:
    for folder in _beside(base):
        if folder.name.lower() in MASK_FOLDERS:
            own = folder.joinpath(*inner, image.stem)
            if own.is_dir():
                yield from sorted(image_files(own))
            elif len(list((base / images).iterdir())) == 1 and not inner:  # one folder per image, with images/ and masks/ in it
                yield from sorted(image_files(folder))


@lru_cache(maxsize=1024)
def _beside(base: Path) -> tuple[Path, ...]:
    return tuple(sorted(folder for folder in base.iterdir() if folder.is_dir()))


def _key(root: Path, image: Path) -> str:
    return image.relative_to(root).as_posix()


def _split(root: Path, image: Path, splits: dict[tuple[Path, str], GivenSplit]) -> GivenSplit | None:
    words = (part.lower() for part in image.relative_to(root).parts[:-1])
    return split_of(splits, image) or next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)
