"""The report on a data set, as JSON-serializable models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from planish.data.sources.inventory import Inventory
from planish.errors import DataError
from planish.task import SplitName

_EXAMPLES = 5


class BadFile(BaseModel):
    """A file that was skipped, and the reason."""

    key: str
    reason: str


class Leak(BaseModel):
    """Images of ``second`` that also occur in ``first``, as exact or near duplicates.

    Args:
        first: a split.
        second: the split whose images are counted.
        exact: number of images with a byte-for-byte copy in ``first``.
        images: number of images with an exact or near duplicate in ``first``.
        examples: pairs of keys, one of each split.
    """

    first: SplitName
    second: SplitName
    exact: int
    images: int
    examples: list[tuple[str, str]]


class DataReport(BaseModel):
    """The contents of a data set.

    Args:
        name: name of the data set.
        task: name of the task.
        images: number of usable images.
        split_sizes: number of images by split; calibration is part of train.
        counts: number of images that contain a class, by split and class.
        objects: number of objects by split and class, without ignored ones; None if targets are not objects.
        inventory: what was found, used and left out.
        how: where the splits come from.
        seed: seed of the splits that are not given.
        bad: broken files, and invalid annotations.
        exact_duplicates: number of images that are a byte-for-byte copy of an earlier one.
        near_duplicates: number of images that look like an earlier one, including exact copies.
        label_conflicts: groups of exact copies with different labels, by key.
        examples: some groups of duplicates, by key.
        leaks: duplicates between splits.
    """

    name: str
    task: str
    images: int
    split_sizes: dict[SplitName, int]
    counts: dict[SplitName, dict[str, int]]
    objects: dict[SplitName, dict[str, int]] | None
    inventory: Inventory
    how: str
    seed: int
    bad: list[BadFile]
    exact_duplicates: int
    near_duplicates: int
    label_conflicts: list[list[str]]
    examples: list[list[str]]
    leaks: list[Leak]


def report_duplicates(
    keys: Sequence[str],
    hashes: npt.NDArray[np.uint8],
    groups: npt.NDArray[np.int64],
    digest: Callable[[int], str],
    parts: Mapping[SplitName, npt.NDArray[np.int64]],
) -> dict[str, Any]:
    """Compute the fields of ``DataReport`` about duplicates.

    Args:
        keys: key of each image.
        hashes: SHA-256 of the files, ``(N, 32)``.
        groups: near-duplicate group of each image, ``(N,)``.
        digest: returns the hash of the target of an image.
        parts: image indices of each split.
    """
    exact = np.unique(np.ascontiguousarray(hashes).view("V32").ravel(), return_inverse=True)[1].ravel()
    copies = _several(exact)
    leaks = []
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        leak = _leak(first, second, keys, exact, groups, parts)  # type: ignore[arg-type]
        if leak:
            leaks.append(leak)
    return {
        "exact_duplicates": len(keys) - len(np.unique(exact)),
        "near_duplicates": len(keys) - len(np.unique(groups)),
        "label_conflicts": [[keys[i] for i in rows] for rows in copies if len({digest(int(i)) for i in rows}) > 1],
        "examples": [[keys[i] for i in rows[:_EXAMPLES]] for rows in _several(groups)[:_EXAMPLES]],
        "leaks": leaks,
    }


def _leak(
    first: SplitName,
    second: SplitName,
    keys: Sequence[str],
    exact: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    parts: Mapping[SplitName, npt.NDArray[np.int64]],
) -> Leak | None:
    a, b = parts[first], parts[second]
    hit = b[np.isin(groups[b], groups[a])]
    if not len(hit):
        return None
    examples = [(keys[a[np.flatnonzero(groups[a] == groups[i])[0]]], keys[i]) for i in hit[:_EXAMPLES]]
    return Leak(first=first, second=second, exact=int(np.isin(exact[b], exact[a]).sum()), images=len(hit), examples=examples)


def _several(groups: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The indices of every group with more than one member, ordered by its first member."""
    order = np.argsort(groups, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(groups) else []
    return sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))


def require_used(name: str, used: Sequence[Any], faults: Sequence[tuple[str, str]]) -> None:
    """Require that images are left after those with invalid annotations were left out.

    Raises:
        DataError: none is left.
    """
    if not used:
        raise DataError(
            f"{name!r} has no usable image: all annotations are invalid"
            + "".join(f", for example {key}: {why}" for key, why in faults[:1]),
            "at least one image must have a valid annotation",
            "mend them",
        )
