"""Selection of the logged images that are most worth labelling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planish.commands.options import at_least
from planish.errors import BundleError, DataError


def label_candidates(log: str | Path, bundles: Sequence[str | Path] = (), *, out: str | Path, count: int = 50) -> int:
    """Copy the logged images that are most worth labelling, by the model's uncertainty, with a labels.csv to fill in.

    They are spread evenly over the predicted classes. For a detector, a COCO file with the model's own boxes is written instead, to be
    corrected.

    Args:
        log: Folder written by `planish serve --log` with --log-images.
        bundles: The bundles that were served, named as they were served; needed if the log covers several models.
        out: Output folder; must not exist.
        count: Maximum number of images.

    Returns:
        The number of images.

    Raises:
        DataError: no images were logged, or images of several models and no `bundles` are given.
        BundleError: `out` exists.

    Example:
        $ planish label-candidates log/ photos=runs/photos --count 50 --out to-label
    """
    from planish.serving.monitoring.labelling import find_label_candidates
    from planish.serving.monitoring.monitor import is_address

    at_least(1, count=count)
    if Path(out).exists():
        raise BundleError(f"{out} exists already", "nothing is overwritten", "choose another --out")
    if is_address(str(log)):
        raise DataError(f"the address {log}", "images are taken from the folder of a log", "name the folder of planish serve --log")
    return find_label_candidates(Path(log), Path(out), count, bundles)
