"""What is in a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planish.commands.options import Layout, source

if TYPE_CHECKING:
    from planish.data import ImageData
    from planish.data.sources.dataset import Dataset


def data(
    data: str | Path | Dataset, *, task: str | None = None, layout: Layout | None = None, skip_bad: bool = False, seed: int = 0
) -> ImageData:
    """What is in a data set: task and layout, what is used and what is left out, classes, splits, duplicates, leaks.

    Args:
        data: Images: a folder, a manifest, or a built-in name; see `planish optimize --help`.
        task: classification, detection, instance, semantic, or one that is installed; by default what the data is annotated for.
        layout: How the data is laid out, where it could be read in several ways.
        skip_bad: Leave broken images, and annotations that make no sense, out instead of stopping.
        seed: Of the split.

    Returns:
        The images in their splits, and the report on them.

    Raises:
        DataError: the images cannot be used.

    Example:
        $ planish data photos/
    """
    from planish.data import load_images

    return load_images(source(data, layout), task=task, seed=seed, skip_bad=skip_bad)
