"""Who goes where: seeded, stratified splits that keep near duplicates on one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from planish.errors import DataError

CALIBRATION_IMAGES = 512
VALIDATION_SHARE = 0.15
TEST_SHARE = 0.15

Indices = npt.NDArray[np.int64]


def cut(targets: Indices, groups: Indices, shares: Mapping[str, float], seed: int, class_names: Sequence[str]) -> dict[str, Indices]:
    """Cut images into parts, each class in the given shares (at least one image a part), groups whole.

    Groups of several images are placed first, each where it fits its classes best; single images then fill what is left.

    Args:
        targets: class of each image, ``(N,)``.
        groups: near-duplicate group of each image, ``(N,)``.
        shares: part name to its share; the first part takes the rest of its class.
        seed: the same seed gives the same parts.
        class_names: for the messages.

    Returns:
        Part name to the sorted positions of its images; together all of them, once.

    Raises:
        DataError: a class has fewer images than parts, or its near duplicates leave a part without any.
    """
    names = list(shares)
    counts = np.bincount(targets, minlength=len(class_names))
    if few := [f"{class_names[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < len(names)).tolist()]:
        raise DataError(
            f"too few images to split into {', '.join(names)}: {', '.join(few[:10])}",
            f"each class needs at least {len(names)} images",
            "add images or drop the class",
        )
    room = np.stack([np.maximum(1, np.rint(counts * shares[name])) for name in names])
    room[0] = np.maximum(1, counts - room[1:].sum(axis=0))
    part_of = _placed(targets, groups, room, np.random.default_rng(seed))
    parts = {name: np.flatnonzero(part_of == i) for i, name in enumerate(names)}
    for name, rows in parts.items():
        if without := np.setdiff1d(np.arange(len(class_names)), targets[rows]).tolist():
            raise DataError(
                f"class {class_names[without[0]]!r} gets no image in {name}: its images are near duplicates of each other",
                "near duplicates are kept in one split",
                "add images of that class that differ, or give the splits yourself",
            )
    return parts


def folds(targets: Indices, groups: Indices, count: int, seed: int, class_names: Sequence[str]) -> Indices:
    """The fold of each image, ``(N,)``: folds of equal size, give or take one, each with its share of every class; groups whole.

    Args:
        targets: class of each image, ``(N,)``.
        groups: near-duplicate group of each image, ``(N,)``.
        count: of folds, 2 or more.
        seed: the same seed gives the same folds.
        class_names: for the messages.

    Raises:
        DataError: a class has fewer images, or fewer that are no near duplicates of each other, than there are folds.
    """
    counts = np.bincount(targets, minlength=len(class_names))
    ends = np.cumsum(counts)  # images that are left over when classes are shared out go to the folds in turn
    extra = [[(end - 1 - i) % count for i in range(number % count)] for end, number in zip(ends, counts, strict=True)]
    room = np.tile(counts // count, (count, 1)).astype(np.float64)
    for c, chosen in enumerate(extra):
        room[chosen, c] += 1
    fold_of = _placed(targets, groups, room, np.random.default_rng(seed))
    present = np.zeros((count, len(class_names)), dtype=bool)
    present[fold_of, targets] = True
    if few := np.flatnonzero(~present.all(axis=0)).tolist():
        different = len(np.unique(groups[targets == few[0]]))
        raise DataError(
            f"class {class_names[few[0]]!r} has {counts[few[0]]} images, {different} of them different, for {count} folds",
            "near duplicates are kept in one fold, and each fold needs an image of every class",
            f"take {min(different, count - 1)} folds" if min(different, count - 1) > 1 else "add images of that class",
        )
    return fold_of


def _placed(targets: Indices, groups: Indices, room: npt.NDArray[np.float64], rng: np.random.Generator) -> Indices:
    """The part of each image, ``(N,)``; ``room`` ``(parts, classes)`` says how many there should be."""
    part_of = np.full(len(targets), -1, dtype=np.int64)
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(size)])
    several = rng.permutation(np.flatnonzero(size > 1))
    for g in several[np.argsort(-size[several], kind="stable")]:
        members = order[starts[g] : starts[g + 1]]
        takes = np.bincount(targets[members], minlength=room.shape[1])
        overfull = np.maximum(0, takes - room).sum(axis=1)  # images that would be too many in each part
        part = int(np.lexsort((-(room * (takes > 0)).sum(axis=1), overfull))[0])
        part_of[members] = part
        room[part] -= takes
    for c in range(room.shape[1]):
        single = rng.permutation(np.flatnonzero((targets == c) & (part_of < 0)))
        wanted = np.maximum(0, room[1:, c]).astype(np.int64)
        # Groups may have filled the first part beyond its room; what is left is then shared out in order.
        ends = np.minimum(np.cumsum(wanted), len(single))
        part_of[single] = 0
        for part, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), start=1):
            part_of[single[start:end]] = part
    return part_of


def calibration(train: Indices, targets: Indices, seed: int, size: int = CALIBRATION_IMAGES) -> Indices:
    """A seeded subset of ``train`` with every class in its share, at least one image each; all of it where ``train`` is small."""
    if len(train) <= size:
        return train
    rng = np.random.default_rng([seed, 1])
    chosen = []
    for c in np.unique(targets[train]):
        rows = train[targets[train] == c]
        chosen.append(rng.choice(rows, max(1, int(len(rows) * size / len(train))), replace=False))
    return np.sort(np.concatenate(chosen))
