"""``tile_images``: cuts a data set of large images into one of tiles."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from planish.data.annotations.validation import size_of
from planish.data.sources.reading import read_source, report_found
from planish.data.sources.report import require_used
from planish.data.sources.source import AnnotatedFiles, LabelMapFiles, Maps
from planish.data.targets.objects import Objects
from planish.data.tiling.tiles import LargeImage, LargeMap, write_tiles
from planish.errors import DataError
from planish.files.reading import wrap_parse_errors
from planish.files.workspace import cache_root


def tile_images(
    source: str | Path,
    out: str | Path,
    *,
    size: int,
    overlap: float = 0.25,
    task: str | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    cache_dir: Path | None = None,
) -> int:
    """Cut large images with boxes, masks or label maps into overlapping tiles, in a folder that ``load_images`` can read (COCO layout or
    mask images).

    Given splits are preserved. Missing ones are taken from bands of the images, or from whole images, so that overlapping tiles do not end
    up in two splits. The folder also records the split of each large image, so that a model trained on the tiles is not evaluated on
    images that its training tiles were cut from.

    Args:
        source: see ``load_images``.
        out: output folder; must not exist yet.
        size: side of a tile in pixels.
        overlap: overlap of neighbouring tiles as a fraction of ``size``; should be at least as wide as most objects.
        task: ``detection``, ``instance`` or ``semantic``; None to infer it from the data.
        seed: random seed for splits that are not given.
        skip_bad: skip invalid annotations instead of raising.
        cache_dir: see ``load_images``.

    Returns:
        The number of tiles.

    Raises:
        DataError: there are no boxes or masks, an image cannot be read, or the folder exists.
    """
    folder = Path(out)
    if folder.exists():
        raise DataError(f"{str(out)!r} is there already", "tiles have a folder of their own", "choose another --out, or delete it")
    name, content = read_source(source, cache_root(cache_dir), task)
    if not isinstance(content, AnnotatedFiles | LabelMapFiles):
        raise DataError(f"{name!r} has {content.how}, for {content.task}", "tiles are cut of images with boxes, or masks")
    report_found(content)
    with wrap_parse_errors(Path(source), DataError, "annotations fit their images, which are all readable"):
        labels = content.targets_of(content.images, skip_bad)
        used = content.images if labels.kept is None else [content.images[i] for i in labels.kept]
        require_used(name, used, labels.faults)
        large = [LargeImage(item.key, item.path, _large(labels.targets, i, *size_of(item)), item.split) for i, item in enumerate(used)]
    return write_tiles(folder.absolute(), large, labels.class_names, size=size, overlap=overlap, seed=seed)


def _large(targets: Any, index: int, height: int, width: int) -> Objects | LargeMap:
    if isinstance(targets, Maps):
        return LargeMap(partial(targets.__getitem__, index), height, width)
    objects: Objects = targets[index]
    return objects
