"""Kinds of detection errors and their costs.

The kinds are those of TIDE, and so is the cost: the gain from fixing one kind alone (D. Bolya et al., 2020, arXiv:2008.08115).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planish.evaluation.errors.costs import costs
from planish.evaluation.metrics.detection import average_precision, bootstrap_counts
from planish.evaluation.metrics.matching import Flags, Floats, ImageOverlaps, Matches, Numbers, compute_overlaps, match
from planish.evaluation.statistics.intervals import known_mean

if TYPE_CHECKING:
    from planish.artifact import Outputs
    from planish.data.targets.objects import Objects
    from planish.measurement import Measurement

_SAME, _TOUCHED = 0.5, 0.1  # minimum IoU of a correct box, and of a detection that is assigned to an object at all
KINDS = ("wrong_classes", "bad_places", "wrong_classes_and_places", "duplicates", "background", "missed_objects")
_NONE = -1
# Fixed by correcting the class or box of the detection; the other kinds are fixed by removing it.
_REPAIRED = ("wrong_classes", "bad_places")


@dataclass(frozen=True)
class Errors:
    """The detection errors in all images.

    Args:
        matches: matches from ``matching.match``, at an IoU threshold of 0.5 only.
        kind: kind of error of each detection ``(D,)``, an index into ``KINDS``; -1 if it is right or does not count.
        object: object of each detection ``(D,)``, an index into ``matches.object_image``; for the kinds in ``_REPAIRED``, the object that
            the fixed detection would match; -1 if there is none.
        missed: whether each object ``(G,)`` is missed: no detection matches it, nor is any assigned to it with a wrong class or box.
    """

    matches: Matches
    kind: Numbers
    object: Numbers
    missed: Flags


def detection_errors(
    outputs: Outputs,
    targets: Sequence[Objects],
    class_names: Sequence[str],
    *,
    masks: bool = False,
    against: Outputs | None = None,
    uncapped: bool = False,
) -> dict[str, Measurement]:
    """Return for each of ``KINDS`` the points of mAP50 that fixing all such errors would gain, with an interval over images.

    ``n`` is the number of errors.

    Args:
        outputs: see ``matching.compute_overlaps``.
        targets: objects of each image; the result is empty if there are none at all.
        class_names: labels are indices into them.
        masks: use the IoU of masks instead of boxes.
        against: outputs of another model on the same images. The measurements are then paired differences, how many more points are lost
            than by that model, and ``n`` is the number of images.
        uncapped: count all detections, see ``detection_metrics``.
    """

    def lost(outputs: Outputs) -> dict[str, tuple[int, Floats]]:
        return _lost(find_errors(outputs, targets, masks=masks, uncapped=uncapped), len(targets), len(class_names))

    return costs(lost(outputs), len(targets), None if against is None else lost(against))


def _lost(errors: Errors, images: int, classes: int) -> dict[str, tuple[int, Floats]]:
    """Return, for each kind, the number of errors and the points that they cost in each resample ``(R,)``."""
    if not len(errors.matches.object_image):
        return {}
    weights = bootstrap_counts(images)
    before = average_precision(errors.matches, classes, weights)
    found = {}
    for number, kind in enumerate(KINDS):
        after = average_precision(repaired(errors, kind), classes, weights)
        after[np.isnan(after) & ~np.isnan(before)] = 1.0  # all objects of the class were missed, so none are left
        count = int(errors.missed.sum() if kind == "missed_objects" else (errors.kind == number).sum())
        found[kind] = count, 100 * (known_mean(after) - known_mean(before))
    return found


def find_errors(outputs: Outputs, targets: Sequence[Objects], *, masks: bool = False, uncapped: bool = False) -> Errors:
    """Classify each wrong detection by kind of error, and find the missed objects."""
    images = compute_overlaps(outputs, targets, masks=masks)
    matches = match(images, uncapped=uncapped)
    at_half = replace(matches, found=matches.found[:1], ignored=matches.ignored[:1], partner=matches.partner[:1])
    kind = np.full(len(matches.score), _NONE)
    meant = at_half.partner[0].copy()
    begins, first = (np.searchsorted(of, np.arange(matches.images + 1)) for of in (matches.image, matches.object_image))
    for index, image in enumerate(images):
        rows = np.arange(begins[index], begins[index + 1])
        counted = np.flatnonzero(~image.objects.ignored)
        order = np.argsort(image.objects.labels[counted], kind="mergesort")  # in the order of ``match``
        counted = counted[order]
        for row in rows[~at_half.found[0, rows] & ~at_half.ignored[0, rows]]:
            kind[row], of = _kind(image, int(matches.place[row]), int(matches.label[row]), counted)
            meant[row] = _NONE if of == _NONE else first[index] + of
    missed = np.ones(len(matches.object_image), bool)
    wrong = np.isin(kind, [KINDS.index(name) for name in _REPAIRED])
    missed[meant[(at_half.found[0] & ~at_half.ignored[0]) | wrong]] = False
    return Errors(at_half, kind, meant, missed)


def _kind(image: ImageOverlaps, place: int, label: int, counted: Numbers) -> tuple[int, int]:
    """Return the kind of error of a detection that matches nothing, and its object as an index into ``counted`` (-1 for none)."""
    if not len(counted):
        return KINDS.index("background"), _NONE
    overlap = image.overlap[place, counted]
    same = image.objects.labels[counted] == label
    ours, others = np.where(same, overlap, -1.0), np.where(same, -1.0, overlap)
    mine, other = int(ours.argmax()), int(others.argmax())
    # several kinds may apply to a detection; the order is that of TIDE's own code, so that the numbers are comparable
    if _TOUCHED <= ours[mine] < _SAME:
        return KINDS.index("bad_places"), mine
    if others[other] >= _SAME:
        return KINDS.index("wrong_classes"), other
    if ours[mine] >= _SAME:
        return KINDS.index("duplicates"), mine
    if others[other] >= _TOUCHED:
        return KINDS.index("wrong_classes_and_places"), other
    return KINDS.index("background"), _NONE


def repaired(errors: Errors, kind: str) -> Matches:
    """Return the matches as they would be without one kind of error.

    If two detections would then match the same object, the more confident one is kept, as in the paper; TIDE's own code keeps the one that
    was right before.
    """
    matches, number = errors.matches, KINDS.index(kind)
    if kind == "missed_objects":
        return replace(matches, object_image=matches.object_image[~errors.missed], object_label=matches.object_label[~errors.missed])
    rows = np.flatnonzero(errors.kind == number)
    found, label = matches.found.copy(), matches.label.copy()
    gone = np.zeros(len(label), bool)
    if kind not in _REPAIRED:
        gone[rows] = True
    else:
        held = {int(of): row for row, of in enumerate(errors.object) if found[0, row] and of != _NONE}
        for row in rows[np.argsort(-matches.score[rows], kind="mergesort")]:
            of = int(errors.object[row])
            label[row] = matches.object_label[of]
            if of in held and matches.score[held[of]] >= matches.score[row]:
                gone[row] = True  # a more confident detection matches that object: once fixed, this one would be a duplicate
                continue
            if of in held:
                gone[held[of]] = True
            found[0, row], held[of] = True, int(row)
    return replace(matches, found=found, label=label, ignored=matches.ignored | gone)
