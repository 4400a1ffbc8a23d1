"""Large images, cut into tiles."""

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
    """Cut large images with boxes, masks or label maps into overlapping tiles, to train on.

    Splits are kept; those that are not given are cut off as bands, or whole images, as tiles of one image must not be in two of them.

    Args:
        data: Images with annotations; see `planish optimize --help`.
        size: Pixels of a tile's side.
        out: Folder for the tiles; it must not exist yet.
        overlap: Share of a tile that its neighbour shows as well; at least as wide as most objects.
        task: detection, instance or semantic; by default what the data is annotated for.
        layout: How the data is laid out, where it could be read in several ways.
        skip_bad: Leave annotations that make no sense out instead of stopping.
        seed: Of what is split here.

    Returns:
        How many tiles there are.

    Raises:
        DataError: there are no boxes or masks, the images cannot be read, or the folder exists.

    Example:
        $ planish tile aerial/ --size 512 --out tiles/
    """
    from planish.data import tile_images

    return tile_images(source(data, layout), out, size=size, overlap=overlap, task=task, skip_bad=skip_bad, seed=seed)
