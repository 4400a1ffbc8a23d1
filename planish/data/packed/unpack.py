"""``unpacked``: the folder or manifest that an archive, shards or Parquet files become, made once and kept in the cache."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from planish.data.cache.files import full_disk_reported, key_of, whole
from planish.data.packed.archives import is_archive, tar_damage_reported, write_entries
from planish.data.packed.parquet import parquet_images
from planish.data.packed.sample import Objects, PackedImage
from planish.data.packed.shards import is_shard, shard_images
from planish.data.sources.inventory import Inventory, LeftOut
from planish.data.sources.listing import EXTENSIONS, SPLIT_WORDS
from planish.errors import DataError
from planish.files.reading import wrap_parse_errors
from planish.progress import Stage

_VERSION = 1  # increment when what is unpacked changes
_ENTRIES, _SUBFOLDERS = 50, 20  # looked at to tell whether a folder holds shards or Parquet files
_FILES, _LABELS, _LEFT_OUT = "images", "labels.csv", "left_out.json"
_TAR, _PARQUET = ".tar", ".parquet"
Unpack = Callable[[Path, Stage], list[LeftOut]]  # folder to fill -> what is left out


def unpacked(path: Path, root: Path, inventory: Inventory) -> Path:
    """Unpack a source if it is packed.

    Args:
        path: a ZIP or tar archive of what is otherwise a folder; a WebDataset shard, a Parquet file, or a folder of such files, where the
            names of files tell their split; ``FILE#COLUMN`` or ``FOLDER#COLUMN`` takes a certain column of Parquet files as the label.
        root: the cache folder.
        inventory: records what is left out.

    Returns:
        A folder or a manifest in the cache; ``path`` itself if it is not packed.

    Raises:
        DataError: files are damaged, encrypted or unsafe, or the disk is too small.
    """
    found = _packed(path)
    if found is None:
        return path
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) for file in found.files]
    folder = root / "unpacked" / key_of(_VERSION, os.fsencode(path.absolute()), stamps)
    if not folder.is_dir():
        size = sum(file.stat().st_size for file in found.files)
        with (
            full_disk_reported(root, lambda: size),
            whole(folder, file_by_file=False) as partial,
            wrap_parse_errors(path, DataError, "it is complete and not damaged", "copy it again"),
            tar_damage_reported(),
            Stage(f"unpacking {path.name}", size) as stage,
        ):
            left_out = found.unpack(partial, stage)
            (partial / _LEFT_OUT).write_text(json.dumps([one.model_dump() for one in left_out]))
    inventory.left_out += [LeftOut(**one) for one in json.loads((folder / _LEFT_OUT).read_text())]
    return folder / _LABELS if (folder / _LABELS).exists() else _innermost(folder / _FILES)


def is_packed(path: Path) -> bool:
    """Whether ``unpacked`` unpacks it."""
    return _packed(path) is not None


@dataclass(frozen=True)
class _Packed:
    files: Sequence[Path]
    unpack: Unpack


def _packed(path: Path) -> _Packed | None:
    source, _, column = path.name.partition("#")
    if column and not path.exists():
        path = path.with_name(source)
    if path.is_file():
        if path.suffix.lower() == _PARQUET:
            return _Packed([path], _images_of([path], column))
        if not is_archive(path):
            return None
        if is_shard(path):
            return _Packed([path], _images_of([path], ""))
        return _Packed([path], lambda folder, stage: write_entries(path, folder / _FILES, stage))
    files = _inside(path) if path.is_dir() else []
    return _Packed(files, _images_of(files, column)) if files else None


def _inside(folder: Path) -> list[Path]:
    """The shards or Parquet files of a folder that holds nothing else to read: in the folder itself, or in its subfolders."""
    places = [folder, *islice((Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."), _SUBFOLDERS)]
    seen = {entry.suffix.lower() for place in places for entry in islice(map(Path, os.scandir(place)), _ENTRIES)}
    if seen & EXTENSIONS or not seen & {_TAR, _PARQUET}:
        return []
    suffix = _PARQUET if _PARQUET in seen else _TAR
    by_place = {place: sorted(file for file in place.iterdir() if file.suffix.lower() == suffix) for place in places}
    by_place = {place: files for place, files in by_place.items() if files}
    names = [place.name for place in by_place if place.name.lower() not in SPLIT_WORDS]
    if len(names) > 1:
        raise DataError(
            f"{str(folder)!r} has {suffix} files in {', '.join(names)}", "the files of one folder are one data set", "give one of them"
        )
    return [file for files in by_place.values() for file in files]


def _images_of(files: Sequence[Path], column: str) -> Unpack:
    def unpack(folder: Path, stage: Stage) -> list[LeftOut]:
        def images() -> Iterable[PackedImage]:
            for file in files:
                yield from parquet_images(file, column) if file.suffix.lower() == _PARQUET else shard_images(file)
                stage.advance(file.stat().st_size)

        return _write(images(), folder)

    return unpack


def _write(images: Iterable[PackedImage], folder: Path) -> list[LeftOut]:
    """Write images with a manifest of their labels, or with COCO files of their boxes; returns what was left out."""
    place = folder / _FILES
    place.mkdir()
    rows: list[tuple[str, str, str]] = []
    unlabelled: list[Path] = []
    boxes: dict[Path, Objects] = {}
    for image in images:
        split = image.split or ""
        file = place / (split if image.objects is not None else "") / image.name
        if file.exists():
            raise DataError(f"there are two images of the name {image.name!r}", "each image of a file has a name of its own")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(image.content)
        if image.objects is not None:
            boxes[file] = image.objects
        elif image.label is None:
            unlabelled.append(file)
        else:
            rows.append((f"{_FILES}/{image.name}", image.label, split))
    for parent in {file.parent for file in boxes}:
        (parent / "_annotations.coco.json").write_text(json.dumps(_coco(parent, boxes)))
    if not rows:
        return []
    for file in unlabelled:
        file.unlink()
    with (folder / _LABELS).open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        has_split = any(split for *_, split in rows)
        writer.writerow(("path", "label", "split") if has_split else ("path", "label"))
        writer.writerows(row if has_split else row[:2] for row in rows)
    if not unlabelled:
        return []
    return [LeftOut(what="images", reason="no label", count=len(unlabelled), examples=[file.name for file in unlabelled[:3]])]


def _coco(folder: Path, boxes: Mapping[Path, Objects]) -> dict[str, Any]:
    """The objects of the images of a folder in COCO's format; ``boxes`` has those of all folders, which share their categories.

    The size of an image is left out: it may be damaged, which is found when it is decoded.
    """
    names = sorted({name for objects in boxes.values() for name, _ in objects})
    ids = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for file, objects in boxes.items():
        if file.parent != folder:
            continue
        images.append({"id": len(images), "file_name": file.name})
        for name, box in objects:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": images[-1]["id"],
                    "category_id": ids[name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": ids[name], "name": name} for name in names]}


def _innermost(folder: Path) -> Path:
    """The folder with the content of an archive: many have one folder around everything."""
    while len(inner := [entry for entry in folder.iterdir() if entry.name != "__MACOSX"]) == 1 and inner[0].is_dir():
        folder = inner[0]
    return folder
