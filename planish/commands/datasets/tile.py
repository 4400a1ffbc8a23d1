"""Tiling of large annotated images."""

from __future__ import annotations

from pathlib import Path

from planish.commands.options import Layout, source


def tile(
    data: str | Path,
    *,
    size: int,
    out: str | Path,
    overlap: float = 0.25,
    task: str | None = None,
    layout: Layout | None = None,
    skip_bad: bool = False,
    seed: int = 0,
) -> int:
    """Cut large annotated images into overlapping tiles for training.

    Given splits are kept; missing ones are formed from bands of an image, or from whole images, so that overlapping tiles never end up in
    different splits.

    Args:
        data: Dataset with annotations; see `planish optimize --help`.
        size: Side of a tile, in pixels.
        out: Output folder; must not exist.
        overlap: Overlap of neighbouring tiles, as a share of a tile; make it at least as wide as most objects.
        task: detection, instance or semantic; by default determined by the annotations.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip invalid annotations instead of stopping.
        seed: Seed of the split, if the dataset has none.

    Returns:
        The number of tiles.

    Raises:
        DataError: there are no boxes or masks, the images cannot be read, or `out` exists.

    Example:
        $ planish tile aerial/ --size 512 --out tiles/
    """
    from planish.data import tile_images

    return tile_images(source(data, layout), out, size=size, overlap=overlap, task=task, skip_bad=skip_bad, seed=seed)
