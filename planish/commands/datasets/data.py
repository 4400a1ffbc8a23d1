"""Description of a dataset."""

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
    """Describe a dataset: task, layout, what is used and skipped, classes, splits, duplicates and leaks.

    Args:
        data: Dataset: a folder, a manifest, or the name of a built-in one; see `planish optimize --help`.
        task: classification, detection, instance, semantic, or the name of an installed task; by default determined by the annotations.
        layout: Layout of the dataset, if it could be read in more than one way.
        skip_bad: Skip broken images and invalid annotations instead of stopping.
        seed: Seed of the split.

    Returns:
        The images in their splits, and a report on them.

    Raises:
        DataError: the images cannot be used.

    Example:
        $ planish data photos/
    """
    from planish.data import load_images

    return load_images(source(data, layout), task=task, seed=seed, skip_bad=skip_bad)
