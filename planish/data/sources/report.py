"""What was found in a data set, as JSON-able values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from planish.data.sources.inventory import Inventory
from planish.task import SplitName

_EXAMPLES = 5


class BadFile(BaseModel):
    """A file that was left out, and why."""

    key: str
    reason: str


class Leak(BaseModel):
    """Images of ``second`` that are, as copies or near copies, also in ``first``.

    Args:
        first: a split.
        second: the split whose images are counted.
        exact: how many have a byte-for-byte copy in ``first``.
        images: how many have a copy or a near copy there.
        examples: pairs of keys, first and second.
    """

    first: SplitName
    second: SplitName
    exact: int
    images: int
    examples: list[tuple[str, str]]


class DataReport(BaseModel):
    """What is in a data set.

    Args:
        name: of the data set.
        task: that it is used for.
        images: how many can be used.
        split_sizes: images by split; calibration is part of train.
        counts: images that show a class, by split and class.
        objects: objects by split and class, without ignored ones; None where images, or pixels, have classes.
        inventory: what was found, used and left out.
        how: where the splits come from.
        seed: of whatever was split here.
        bad: broken files.
        exact_duplicates: images that are a byte-for-byte copy of an earlier one.
        near_duplicates: images that look like an earlier one, exact copies included.
        label_conflicts: groups of exact copies that have different labels, by their keys.
        examples: some groups of duplicates, by their keys.
        leaks: between splits.
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
    targets: npt.NDArray[np.int64],
    parts: Mapping[SplitName, npt.NDArray[np.int64]],
) -> dict[str, Any]:
    """The fields of ``DataReport`` about duplicates.

    Args:
        keys: one per image.
        hashes: SHA-256 of the files, ``(N, 32)``.
        groups: near-duplicate group of each image.
        targets: class of each image.
        parts: rows of each split.
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
        "label_conflicts": [[keys[i] for i in rows] for rows in copies if len(set(targets[rows].tolist())) > 1],
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
    """The rows of every group of more than one, in the order of their first."""
    order = np.argsort(groups, kind="stable")
    runs = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(groups) else []
    return sorted((run for run in runs if len(run) > 1), key=lambda run: int(run[0]))
