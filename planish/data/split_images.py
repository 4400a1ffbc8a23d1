"""Assignment of images to the four splits, from the splits of their source and the assignment of an earlier model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planish.data import splits as cutting
from planish.data.splits import Hashes, Indices
from planish.errors import DataError
from planish.progress import note
from planish.split_assignment import ASSIGNED_SPLITS, AssignedSplit, SplitAssignment
from planish.task import SPLITS

if TYPE_CHECKING:
    from planish.data.sources.listing import ImageFile
    from planish.data.sources.source import Labels
    from planish.task import SplitName

_HELD_OUT: dict[AssignedSplit, float] = {"validation": cutting.VALIDATION_SHARE, "test": cutting.TEST_SHARE}
_EXAMPLES = 3


@dataclass(frozen=True)
class Splitting:
    """The result of splitting images.

    Args:
        rows: sorted image indices of each split; calibration is part of train.
        given: splits that the source defines.
        known: number of images that were in the earlier assignment.
        how: description of where the splits come from.
        assignment: split of each image, including images assigned earlier.
    """

    rows: dict[SplitName, Indices]
    given: tuple[AssignedSplit, ...]
    known: int
    how: str
    assignment: SplitAssignment


def split_images(
    listed: Sequence[ImageFile],
    labels: Labels,
    hashes: Hashes,
    groups: Indices,
    seed: int,
    earlier: SplitAssignment | None = None,
    *,
    strict: bool = True,
) -> Splitting:
    """Split images into train, calibration, validation and test.

    Images whose content is in the earlier assignment keep their split, whatever split the source now defines for them. Other images get the
    split that the source defines. Images without one, and training images if the source lacks a validation or test split, are split by
    content: near duplicates of images in the earlier assignment follow those, the others are assigned by their hash
    (``splits.assign_splits``). If no image is in an earlier assignment, the split is also stratified by class (``splits.cut``), and without
    an earlier assignment each split must contain every class that it needs.

    Args:
        listed: the images.
        labels: labels of the images.
        hashes: SHA-256 of their files, ``(N, 32)``.
        groups: near-duplicate group of each image, ``(N,)``.
        seed: random seed, used if there is no earlier assignment.
        earlier: split assignment saved with the model that the images are used with.
        strict: require every class in every split where ``labels.needed``; ignored if there is an earlier assignment.

    Raises:
        DataError: with ``strict`` and without an earlier assignment, a split lacks a class or there are no training images.
    """
    given = [item.split for item in listed]
    there = tuple(name for name in ASSIGNED_SPLITS if name in given)
    known = [None] * len(listed) if earlier is None else earlier.find(hashes)
    lacking = [name for name in _HELD_OUT if name not in there]
    strict = strict and earlier is None
    if strict:
        _check_given(given, there, labels)
    split: list[AssignedSplit | None] = [k or (g if g != "train" or not lacking else None) for k, g in zip(known, given, strict=True)]
    _report_conflicts(listed, known, given, lacking)
    seed = seed if earlier is None else earlier.seed
    how = "as given"
    for source, held_out in ((None, list(_HELD_OUT)), ("train", lacking)):
        pool = [i for i, name in enumerate(split) if name is None and given[i] == source]
        if any(known):
            allowed = [name for name in ASSIGNED_SPLITS if name in ("train", *held_out)]
            pool = _follow_near_duplicates(split, pool, known, groups, allowed)
        if not pool:
            continue
        rows = np.array(pool)
        shares = {"train": 1.0} | {name: _HELD_OUT[name] for name in held_out}
        if any(known):
            parts = cutting.assign_splits(hashes[rows], groups[rows], [_HELD_OUT[name] for name in held_out], seed)
            cut = {name: np.flatnonzero(parts == k) for k, name in enumerate(shares)}
        else:
            cut = cutting.cut(labels.strata[rows], hashes[rows], groups[rows], shares, seed, labels.strata_names, strict=strict)
        for name in ASSIGNED_SPLITS:
            for i in rows[cut.get(name, [])]:
                split[i] = name
        new = ", ".join(f"{_HELD_OUT[name]:.0%} {name}" for name in held_out)
        how = f"{' and '.join(there) or 'nothing'} given; {new} cut from {source or 'all images'} by content, seed {seed}"
    if count := sum(k is not None for k in known):
        how = f"{count} of {len(listed)} images keep the split that the model has them in, the others: {how}"
    if how != "as given":
        note(f"splits: {how}")
    final = [name or "train" for name in split]
    found: dict[SplitName, Indices] = {
        name: np.array([i for i, s in enumerate(final) if s == name], dtype=np.int64) for name in ASSIGNED_SPLITS
    }
    found["calibration"] = cutting.calibration(found["train"], labels.strata, hashes, seed)
    now = SplitAssignment.of(hashes, final, seed)
    assignment = now if earlier is None else earlier.updated(now)
    return Splitting({name: found[name] for name in SPLITS}, there, count, how, assignment)


def _check_given(given: Sequence[AssignedSplit | None], there: Sequence[AssignedSplit], labels: Labels) -> None:
    """Raises:
    DataError: the source defines splits, but no train split, or a split lacks a class.
    """
    if there and "train" not in there:
        raise DataError(f"only {' and '.join(there)} is given", "there must be images to train on", "add train/, or give no splits at all")
    for name in there:
        rows = [i for i, split in enumerate(given) if split == name]
        absent = np.setdiff1d(np.arange(len(labels.strata_names)), labels.strata[rows])
        if labels.needed and (missing := [labels.strata_names[c] for c in absent]):
            raise DataError(f"no image of {', '.join(map(repr, missing[:10]))} in {name}", "each class must be in each split")


def _report_conflicts(
    listed: Sequence[ImageFile],
    known: Sequence[AssignedSplit | None],
    given: Sequence[AssignedSplit | None],
    lacking: Sequence[AssignedSplit],
) -> None:
    """Log how many known images the source now puts in another split, except held-out images that were taken from a given train split."""
    conflicts: dict[tuple[AssignedSplit, AssignedSplit], list[str]] = {}
    for item, k, g in zip(listed, known, given, strict=True):
        if k is not None and g is not None and k != g and not (g == "train" and k in lacking):
            conflicts.setdefault((g, k), []).append(item.key)
    for (g, k), keys in conflicts.items():
        reason = {"train": "the model was trained on them", "validation": "the model was chosen by them", "test": "it was judged by them"}[
            k
        ]
        note(
            f"{len(keys)} images that are in {g} now are in {k} of the model, and stay there, as {reason}: {', '.join(keys[:_EXAMPLES])}"
            + (", ..." if len(keys) > _EXAMPLES else "")
        )


def _follow_near_duplicates(
    split: list[AssignedSplit | None],
    pool: Sequence[int],
    known: Sequence[AssignedSplit | None],
    groups: Indices,
    allowed: Sequence[AssignedSplit],
) -> list[int]:
    """Assign near duplicates of known images to the split of those, preferring train; return the images of the pool that have none."""
    of_group: dict[int, AssignedSplit] = {}
    for name in reversed(allowed):
        of_group |= {int(groups[i]): name for i, k in enumerate(known) if k == name}
    for i in pool:
        split[i] = of_group.get(int(groups[i]))
    return [i for i in pool if split[i] is None]
