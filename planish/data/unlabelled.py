"""Loading of images without labels."""

from __future__ import annotations

from pathlib import Path

from planish.data.images import Decoding, ImageData, load_listed
from planish.data.sources.reading import read_source, report_found
from planish.data.sources.unlabelled import UnlabelledFiles
from planish.files.workspace import cache_root
from planish.split_assignment import SplitAssignment


def is_unlabelled(source: str | Path, task: str | None = None) -> bool:
    """Whether a source has images without labels.

    Args:
        source: see ``load_images``; a folder prefixed with ``unlabelled:`` has none, whatever is in it.
        task: see ``load_images``.

    Raises:
        DataError: see ``load_images``.
    """
    return isinstance(read_source(source, cache_root(None), task)[1], UnlabelledFiles)


def load_unlabelled(
    source: str | Path, decoding: Decoding, *, seed: int = 0, skip_bad: bool = False, assignment: SplitAssignment | None = None
) -> ImageData:
    """Load images without labels; targets are 0, and there are no class names.

    Args:
        source: a folder, see ``is_unlabelled``.
        decoding: see ``load_images``.
        seed: see ``load_images``.
        skip_bad: see ``load_images``.
        assignment: see ``load_images``.

    Raises:
        DataError: there are fewer than three images, not counting near duplicates of each other, or files are broken.
    """
    name, content = read_source(source, cache_root(None), None)
    report_found(content)
    return load_listed(name, content, seed=seed, skip_bad=skip_bad, decoding=decoding, assignment=assignment)
