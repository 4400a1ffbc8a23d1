"""Seeded, stratified splits and folds that keep near duplicates together; splits depend on image content only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from planish.errors import DataError

CALIBRATION_IMAGES = 512
VALIDATION_SHARE = 0.15
TEST_SHARE = 0.15

Indices = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint8]


def cut(
    targets: Indices,
    hashes: Hashes,
    groups: Indices,
    shares: Mapping[str, float],
    seed: int,
    class_names: Sequence[str],
    *,
    strict: bool = True,
) -> dict[str, Indices]:
    """Split images into parts by the hash of their content, keeping near-duplicate groups together.

    Each image or group of near duplicates gets a pseudo-random number between 0 and 1 that depends on its content and the seed only, and
    the number determines its part. Adding or removing an image therefore does not move any other, with one exception: each part gets at
    least half and at most one and a half times its share of each class, and at least one image. Where the numbers alone would violate
    this, as in small classes, the images with the nearest numbers are moved, so there an added image may move a few others.

    Args:
        targets: class of each image, ``(N,)``.
        hashes: SHA-256 of each file, ``(N, 32)``.
        groups: near-duplicate group of each image, ``(N,)``.
        shares: fraction of the images by part name; the first part gets the remainder.
        seed: the same seed gives the same parts.
        class_names: class names for error messages.
        strict: raise if a part would lack a class.

    Returns:
        Sorted image indices by part name; each image is in exactly one part.

    Raises:
        DataError: a class has fewer images than there are parts, or too few that are not near duplicates of each other.
    """
    names = list(shares)
    counts = np.bincount(targets, minlength=len(class_names))
    if strict and (few := [f"{class_names[c]!r} ({counts[c]})" for c in np.flatnonzero(counts < len(names)).tolist()]):
        raise DataError(
            f"too few images to split into {', '.join(names)}: {', '.join(few[:10])}",
            f"each class needs at least {len(names)} images",
            "add images or drop the class",
        )
    part_of = _cut(targets, _draws(hashes, groups, seed), groups, counts, list(shares.values())[1:])
    parts = {name: np.flatnonzero(part_of == i) for i, name in enumerate(names)}
    for name, rows in parts.items():
        if strict and (without := np.setdiff1d(np.arange(len(class_names)), targets[rows]).tolist()):
            raise DataError(
                f"class {class_names[without[0]]!r} gets no image in {name}: its images are near duplicates of each other",
                "near duplicates are kept in one split",
                "add images of that class that differ, or give the splits yourself",
            )
    return parts


def assign_splits(hashes: Hashes, groups: Indices, shares: Sequence[float], seed: int) -> Indices:
    """The part index of each image, ``(N,)``, determined by its content and the seed only; near-duplicate groups are kept together.

    Args:
        hashes: SHA-256 of each file, ``(N, 32)``.
        groups: near-duplicate group of each image, ``(N,)``.
        shares: fractions of parts 1, 2, ...; part 0 gets the remainder.
        seed: seed of the assignment.
    """
    part_of = np.searchsorted(np.cumsum(shares), _draws(hashes, groups, seed), side="right") + 1
    part_of[part_of > len(shares)] = 0
    return np.asarray(part_of, dtype=np.int64)


def _draws(hashes: Hashes, groups: Indices, seed: int) -> npt.NDArray[np.float64]:
    """A pseudo-random number from 0 to 1 for each image, ``(N,)``; a group shares that of its first member in a second random order."""
    if not len(hashes):
        return np.zeros(0)
    digests = b"".join(hashlib.sha256(f"{seed}:".encode() + row.tobytes()).digest()[:16] for row in hashes)
    numbers = np.frombuffer(digests, ">u8").reshape(-1, 2)
    order = np.lexsort((numbers[:, 1], groups))
    first = order[np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))]
    member_of = np.unique(groups, return_inverse=True)[1].ravel()
    draws: npt.NDArray[np.float64] = numbers[first, 0][member_of] / 2.0**64
    return draws


def _cut(targets: Indices, draws: npt.NDArray[np.float64], groups: Indices, counts: Indices, shares: Sequence[float]) -> Indices:
    """The part index of each image; see ``cut``. Classes are placed from rarest to most common, groups with the rarest of their classes."""
    part_of = np.zeros(len(targets), dtype=np.int64)
    placed = np.zeros(len(targets), dtype=bool)
    taken = np.zeros((len(shares) + 1, len(counts)), dtype=np.int64)
    by_draw = np.argsort(draws, kind="stable")
    members: dict[int, list[int]] = {}
    for i in by_draw.tolist():
        members.setdefault(int(groups[i]), []).append(i)
    ends = np.cumsum(shares).tolist()
    for c in np.argsort(counts, kind="stable").tolist():
        own = by_draw[(targets[by_draw] == c) & ~placed[by_draw]]
        units = [members[group] for group in dict.fromkeys(groups[own].tolist())]
        for part, (share, end) in enumerate(zip(shares, ends, strict=True), start=1):
            least = max(1, math.ceil(share * counts[c] / 2))
            most = max(1, math.floor(1.5 * share * counts[c]))
            left = []
            for unit in units:
                of_class = int((targets[unit] == c).sum())
                fits = taken[part, c] + of_class <= most
                if fits and (draws[unit[0]] < end or taken[part, c] < least):
                    _place(unit, part, part_of, placed, taken, targets)
                else:
                    left.append(unit)
            if not taken[part, c] and len(left) > len(shares) + 1 - part:  # every group is too large; keep one for each further part
                smallest = min(left, key=len)
                left.remove(smallest)
                _place(smallest, part, part_of, placed, taken, targets)
            units = left
        for unit in units:
            _place(unit, 0, part_of, placed, taken, targets)
    return part_of


def _place(unit: list[int], part: int, part_of: Indices, placed: npt.NDArray[np.bool_], taken: Indices, targets: Indices) -> None:
    part_of[unit], placed[unit] = part, True
    np.add.at(taken[part], targets[unit], 1)


def folds(targets: Indices, groups: Indices, count: int, seed: int, class_names: Sequence[str]) -> Indices:
    """The fold of each image, ``(N,)``: stratified folds of equal size up to one image, with near-duplicate groups kept together.

    Args:
        targets: class of each image, ``(N,)``.
        groups: near-duplicate group of each image, ``(N,)``.
        count: number of folds, at least 2.
        seed: the same seed gives the same folds.
        class_names: class names for error messages.

    Raises:
        DataError: a class has fewer images, not counting near duplicates of each other, than there are folds.
    """
    counts = np.bincount(targets, minlength=len(class_names))
    ends = np.cumsum(counts)  # the remainder of each class, after equal division, goes to the folds in turn
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
    """The part index of each image, ``(N,)``; ``room``, ``(parts, classes)``, is the target number of images."""
    part_of = np.full(len(targets), -1, dtype=np.int64)
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(size)])
    several = rng.permutation(np.flatnonzero(size > 1))
    for g in several[np.argsort(-size[several], kind="stable")]:
        members = order[starts[g] : starts[g + 1]]
        takes = np.bincount(targets[members], minlength=room.shape[1])
        overfull = np.maximum(0, takes - room).sum(axis=1)  # by how many images each part would exceed its target
        part = int(np.lexsort((-(room * (takes > 0)).sum(axis=1), overfull))[0])
        part_of[members] = part
        room[part] -= takes
    for c in range(room.shape[1]):
        single = rng.permutation(np.flatnonzero((targets == c) & (part_of < 0)))
        wanted = np.maximum(0, room[1:, c]).astype(np.int64)
        # Groups may have filled the first part beyond its target; the remaining images are then distributed in order.
        ends = np.minimum(np.cumsum(wanted), len(single))
        part_of[single] = 0
        for part, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), start=1):
            part_of[single[start:end]] = part
    return part_of


def calibration(train: Indices, targets: Indices, hashes: Hashes, seed: int, size: int = CALIBRATION_IMAGES) -> Indices:
    """The calibration images: a stratified subset of ``train`` chosen by content, at least one per class; all of it if it is small."""
    if len(train) <= size:
        return train
    order = train[np.argsort(_draws(hashes[train], train, seed), kind="stable")]
    chosen = []
    for c in np.unique(targets[train]):
        rows = order[targets[order] == c]
        chosen.append(rows[: max(1, int(len(rows) * size / len(train)))])
    return np.sort(np.concatenate(chosen))
