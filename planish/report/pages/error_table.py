"""Table of errors by kind and cost, for the pages of an evaluation and of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planish.measurement import Measurement
from planish.report import formatting as words
from planish.search.result import ErrorResult

_LOST = "lost_to_"
_AT = re.compile(r"_\d\d$")  # the IoU threshold in the name of a metric
_MEANING = {
    "wrong_classes": "covers an object, and says another class",
    "bad_places": "of the right class, only touches its object",
    "wrong_classes_and_places": "only touches an object, of another class",
    "duplicates": "covers an object that is found already",
    "background": "touches nothing",
    "missed_objects": "neither found, nor meant by a wrong class or place",
}
_MEANING_OF_PIXELS = {
    "borders": "near where two classes meet: 1 % of the larger side, at least a pixel",
    "mistaken_classes": "inside a region, predicted as another class",
    "invented_pixels": "inside the background, predicted as an object",
    "missed_pixels": "inside an object, predicted as background",
}


@dataclass(frozen=True)
class ErrorRow:
    """One kind of error.

    Args:
        kind: name of the kind, in words.
        meaning: description; empty for unknown kinds.
        costs: points lost to this kind, by one model, or by the original and the chosen one.
        bars: length of the costs' bars, in percent of the longest bar in the table.
        change: paired difference of the costs, after minus before; None for one model.
        counted: what ``n`` of a cost counts: ``error`` or ``pixel``.
    """

    kind: str
    meaning: str
    costs: tuple[Measurement, ...]
    bars: tuple[float, ...]
    change: Measurement | None = None
    counted: str = "error"


def of_one(metrics: Mapping[str, Measurement]) -> list[ErrorRow]:
    """Return the rows for one model's metrics, most costly kind first."""
    return _rows([(name.removeprefix(_LOST), (m,), None) for name, m in metrics.items() if name.startswith(_LOST)])


def of_both(errors: Sequence[ErrorResult]) -> list[ErrorRow]:
    """Return the rows for the original and the chosen model, by the larger of both costs in descending order."""
    return _rows([(each.kind, (each.baseline, each.chosen), each.change) for each in errors])


def counted_in(primary: str, metrics: Mapping[str, Measurement]) -> str:
    """Return the name of the metric whose points are lost: mAP at an IoU threshold of 0.5, mIoU, or the primary metric of another task."""
    at_half = f"{_AT.sub('', primary)}_50"
    return words.metric(next((name for name in (at_half, "miou") if name in metrics), primary))


def error_changes(rows: Sequence[ErrorRow]) -> str:
    """Return a sentence on the kinds that cost more or less than before."""
    described = [
        f"{words.number(abs(row.change.value), 2)} points {'more' if row.change.value > 0 else 'less'} to {row.kind}"
        for row in rows
        if row.change is not None and words.change_word(row.change) != "no difference"
    ]
    if not described:
        return "There is no difference between both models in what any kind costs."
    return f"The chosen model loses {', '.join(described[:-1])}{' and ' * (len(described) > 1)}{described[-1]} than the original."


def _rows(described: Sequence[tuple[str, tuple[Measurement, ...], Measurement | None]]) -> list[ErrorRow]:
    most = max((m.value for _, costs, _ in described for m in costs), default=0.0) or 1.0
    rows = []
    for kind, costs, change in described:
        bars = tuple(100 * max(0.0, m.value) / most for m in costs)
        meaning = _MEANING.get(kind) or _MEANING_OF_PIXELS.get(kind, "")
        counted = "pixel" if kind in _MEANING_OF_PIXELS else "error"
        rows.append(ErrorRow(kind.replace("_", " "), meaning, costs, bars, change, counted))
    return sorted(rows, key=lambda row: -max(m.value for m in row.costs))
