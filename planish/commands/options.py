"""Types and helpers for options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from planish.errors import GoalError
from planish.units import image_sides

if TYPE_CHECKING:
    from planish.data.sources.dataset import Dataset

Layout = Literal["classes", "splits", "coco", "voc", "yolo", "masks"]
Resize = Literal["squash", "crop"]
TrainMode = Literal["auto", "always", "never"]
Strength = Literal["none", "light", "standard"]
Split = Literal["train", "calibration", "validation", "test"]
Changes = Annotated[list[str] | tuple[str, ...], Parameter(name="--set")]


def source(data: str | Path | Dataset, layout: Layout | Literal["unlabelled"] | None = None) -> str:
    """Convert the argument ``data`` of a command to the form that readers accept: a path, a name, or ``yolo:photos``.

    Args:
        data: a path or a name; or a ``torch.utils.data.Dataset`` of images and class indices, which is written to the cache as a folder.
        layout: layout of the dataset, if it could be read in more than one way; or ``unlabelled``, to ignore its labels.
    """
    from planish.data.sources.reading import CachedSource, with_layout

    if not isinstance(data, (str, Path)):
        from planish.data.sources.dataset import folder_of

        data = folder_of(data)
    return CachedSource(with_layout(str(data), layout))


def changes_of(changes: list[str] | tuple[str, ...], **short: int | str | None) -> list[str]:
    """Return changes to a recipe as ``key=value``: first those with their own options, then those given with ``--set``.

    Raises:
        GoalError: ``image_size`` is not a size.
    """
    if (image_size := short.get("image_size")) is not None:
        image_sides(image_size)
    return [*(f"{key}={value}" for key, value in short.items() if value is not None), *changes]


def at_least(least: float, **values: float | None) -> None:
    """Check that no value is below ``least``; None is accepted.

    Raises:
        GoalError: a value is below ``least``.
    """
    for name, value in values.items():
        if value is not None and not value >= least:
            option = name.replace("_", "-")
            raise GoalError(f"--{option} {value:g}", f"it is at least {least:g}", f"for example --{option} {max(least, 1):g}")


def results_folder(out: str | Path | None, name: str) -> Path:
    """Return the output folder of a job: ``out`` if given, else ``runs/`` and the job's name."""
    return Path(out) if out is not None else Path("runs") / name
