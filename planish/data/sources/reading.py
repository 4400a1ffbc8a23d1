"""Reading of data sources: resolves a folder, file or built-in name to listed files and labels."""

from __future__ import annotations

import copy
import unicodedata
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from planish.data.annotations.kinds import fitting_kind
from planish.data.annotations.source import LAYOUTS, read_annotations
from planish.data.packed.hub import downloaded, is_hub_dataset
from planish.data.packed.unpack import is_packed, unpacked
from planish.data.sources.builtin import BUILTIN, builtin_folder, is_builtin
from planish.data.sources.inventory import Inventory
from planish.data.sources.listing import files_below, list_folder
from planish.data.sources.manifest import list_manifest
from planish.data.sources.source import AnnotatedFiles, DataSource, LabelledFiles, LabelMapFiles
from planish.data.sources.unlabelled import UNLABELLED, has_no_labels, read_unlabelled
from planish.data.sources.unsupported_formats import foreign_format
from planish.errors import DataError
from planish.files.reading import wrap_parse_errors
from planish.printable import printable_names
from planish.progress import collecting_notes, note
from planish.task import USUAL_TASKS, annotations_for

_OTHER_ARCHIVES = (".7z", ".rar", ".gz", ".zst")


def with_layout(source: str, layout: str | None) -> str:
    """Prefix a source with its layout: ``yolo:photos``; or with ``unlabelled``, so that its labels are ignored.

    Raises:
        DataError: the layout does not exist.
    """
    if layout is None:
        return source
    if layout not in (*LAYOUTS, UNLABELLED):
        raise DataError(f"there is no layout {layout!r}", f"layouts are {', '.join(LAYOUTS)}")
    return f"{layout}:{source}"


def split_layout(source: str | Path) -> tuple[str, str | None]:
    """Split a source into its path or name and its layout, or None; the inverse of ``with_layout``."""
    layout, colon, rest = str(source).partition(":")
    return (rest, layout) if colon and rest and layout in (*LAYOUTS, UNLABELLED) else (str(source), None)


class CachedSource(str):
    """A source string that caches its listed files and parsed annotations for the duration of a job.

    A job reads its source several times: to infer the task, and to load the images once per seed. Parsing a COCO file takes seconds.
    """

    found: dict[tuple[Path, str | None], tuple[str, DataSource]]

    def __new__(cls, source: str) -> CachedSource:
        made = super().__new__(cls, source)
        made.found = {}
        return made


def read_source(source: str | Path, root: Path, task: str | None) -> tuple[str, DataSource]:
    """The name and the listed content of a source; images are not decoded.

    Args:
        source: see ``load_images``; optionally prefixed with a layout, as in ``yolo:photos``.
        root: the cache folder, where built-in data sets are created.
        task: name of the task; None to infer it from the data.

    Raises:
        DataError: the source does not exist, has no usable content, does not fit the task, or is ambiguous.
    """
    if not isinstance(source, CachedSource):
        return _named(source, root, task)
    known = source.found
    if (root, task) not in known:
        usual = known.get((root, None))
        known[root, task] = usual if usual is not None and usual[1].task == task else _named(source, root, task)
    name, content = known[root, task]
    own = copy.copy(content)
    object.__setattr__(own, "inventory", copy.deepcopy(content.inventory))  # a copy, since decoding adds broken images to it
    return name, own


def _named(source: str | Path, root: Path, task: str | None) -> tuple[str, DataSource]:
    name, found = _read(source, root, task)
    return printable_names([name]).get(name, name), found


def _read(source: str | Path, root: Path, task: str | None) -> tuple[str, DataSource]:
    source, layout = split_layout(source)
    inventory = Inventory()
    if is_hub_dataset(source):
        name, path = source.rstrip("/").rpartition("/")[2], downloaded(source)
    elif is_builtin(source):
        name, path = source, builtin_folder(source, root)
        if (own := Path(source).absolute()).is_dir():
            inventory.assume(f"{source} is the built-in data set, not the folder {own}, which is meant only where its whole path is given")
    else:
        path = Path(source).expanduser().absolute()
        try:
            is_folder, is_file = path.is_dir(), path.is_file() or is_packed(path)
            name = path.name if is_folder else path.stem
        except OSError as error:
            raise DataError(f"{str(source)!r} cannot be read: {error.strerror}") from error
        if not (is_folder or is_file):
            raise DataError(f"{str(source)!r} does not exist", f"data is a folder, a manifest or one of {', '.join(BUILTIN)}")
    with wrap_parse_errors(path, DataError, "see the README for what is read"), collecting_notes(silent=True) as notes:
        place = unpacked(path, root, inventory)
        inventory.read_from(place)
        content = _content(name, place, task, layout, inventory).printable()
    for text in notes:
        inventory.assume(text)
    if similar := _similar(_class_names(content)):
        inventory.assume(f"classes whose names differ only in case or spaces are different classes: {', '.join(map(repr, similar[:10]))}")
    inventory.layout, inventory.task, inventory.images_used = content.how, content.task, len(content.images)
    return name, content


def _class_names(content: DataSource) -> Collection[str]:
    if isinstance(content, LabelledFiles):
        return {item.label for item in content.images}
    if isinstance(content, AnnotatedFiles):
        return content.class_names
    return content.codes.class_names if isinstance(content, LabelMapFiles) else ()


def _similar(names: Collection[str]) -> list[str]:
    """The names that equal another one except for case and spaces."""
    plain = {name: "".join(name.casefold().split()) for name in names}
    count = Counter(plain.values())
    return sorted((name for name in names if count[plain[name]] > 1), key=lambda name: (plain[name], name))


def _content(name: str, path: Path, task: str | None, layout: str | None, inventory: Inventory) -> DataSource:
    wanted = None if task is None else annotations_for(task)
    if callable(wanted):
        if layout is not None:
            raise DataError(f"the layout {layout!r} for the task {task!r}", "it reads its data in a way of its own", "omit --layout")
        return wanted(path, inventory)
    if layout == UNLABELLED:  # of any task: what is missing are the labels
        return read_unlabelled(name, path, inventory)
    noted = read_annotations(path, wanted, layout, inventory)
    if noted is not None:
        kind = fitting_kind(noted.kind, wanted, name, task)
        used_for = task or USUAL_TASKS[kind]
        if noted.codes is not None:
            return LabelMapFiles(name, noted.images, noted.codes, noted.how, used_for, inventory)
        return AnnotatedFiles(name, noted.images, noted.class_names, used_for, kind, noted.how, inventory)
    if path.is_dir() and layout is None:
        _refuse_foreign_annotations(path)
        if has_no_labels(path):
            return read_unlabelled(name, path, inventory)
    kind = fitting_kind("classes", wanted, name, task)
    used_for = task or USUAL_TASKS[kind]
    if path.is_dir():
        listed = list_folder(path, layout)
        if inner := [item for item in listed if unicodedata.normalize("NFC", item.path.parent.name) != item.label]:
            inventory.assume(f"{len(inner)} images are in subfolders of class folders: {inner[0].key} is of the class {inner[0].label!r}")
        return LabelledFiles(name, listed, used_for, "class folders", inventory)
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".ndjson", ".json"):
        return LabelledFiles(name, list_manifest(path, inventory), used_for, "manifest", inventory)
    fix = "unpack it and give the folder" if path.suffix.lower() in _OTHER_ARCHIVES else ""
    raise DataError(
        f"{str(path)!r} is a file ending in {path.suffix!r}",
        "a manifest ends in .csv, .tsv or .jsonl; else data is a folder, a ZIP or tar archive, or a Parquet file",
        fix,
    )


def _refuse_foreign_annotations(root: Path) -> None:
    """Raises:
    DataError: a folder that would be read as class folders has annotations in an unsupported format.
    """
    found = [(file, name) for file in sorted(files_below(root)) if (name := foreign_format(file)) is not None]
    if found:
        file, name = found[0]
        raise DataError(
            f"{str(root)!r} has {len(found)} files of annotations that are not read, for example {file.relative_to(root)}: {name}",
            "COCO JSON, Pascal VOC XML and YOLO text files are read",
            "convert them to COCO JSON; --layout classes takes each folder as a class all the same",
        )


def report_found(content: DataSource) -> None:
    """Complete the inventory of a source, and log what was found, what is left out, and what was assumed.

    Args:
        content: its content, from ``read_source``.
    """
    path = content.inventory.place
    images = [item.path for item in content.images]
    inventory = content.inventory
    if path is not None and path.is_dir():
        unlabelled = {"class folders": "in no class folder", "mask images": "no mask"}
        inventory.account([path], images, path, unlabelled.get(content.how, "no annotation names them"))
    elif path is not None and path.is_file():  # unrelated files may be next to it, so only the folders of its images are searched
        root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        folders = sorted(folder for folder in {image.parent for image in images if image.is_relative_to(root)} if folder.is_dir())
        inventory.account(folders, images, root, f"{path.name} does not name them", recursive=False)
    else:
        inventory.images_found = len(images)
    for i, line in enumerate(inventory.lines()):
        note(f"{content.name}: {line}" if i == 0 else line)
