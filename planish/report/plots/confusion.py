"""Confusion matrix: a table of counts for few classes, a heat map for many."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from scipy.cluster import hierarchy

from planish.report.plots.svg import drawing, el

FEW_CLASSES = 20  # up to this number the matrix is a table of counts
_MOST = 100  # classes in a heat map, those with the most errors
_SHADES = 8
_LONGEST = 20  # characters of a class name; longer names are truncated

Counts = npt.NDArray[np.int64]


def shades(matrix: Counts, row: int) -> list[tuple[int, int]]:
    """Return the counts of one row with their shades, 0 to 100: the square root of the share, so that rare errors remain visible."""
    total = max(int(np.sum(matrix[row])), 1)
    return [(int(count), round(100 * math.sqrt(count / total))) for count in matrix[row]]


def most_confused(matrix: Counts, most: int = _MOST) -> Counts:
    """Return the indices of the classes with the most false negatives and false positives, ordered so that confused classes are adjacent.

    The order is that of the leaves of a hierarchical clustering that joins the classes confused most often.

    Args:
        matrix: counts ``(classes, classes)``; rows are targets, columns are predictions.
        most: maximum number of classes.
    """
    off = matrix - np.diag(np.diag(matrix))
    chosen = np.sort(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:most])
    mixed = off[np.ix_(chosen, chosen)] / np.maximum(matrix[chosen].sum(axis=1, keepdims=True), 1)
    mixed = mixed + mixed.T
    if len(chosen) < 3:
        return chosen
    distance = (mixed.max() - mixed)[np.triu_indices(len(chosen), 1)]
    tree = hierarchy.linkage(distance, "average")
    leaves: Counts = hierarchy.leaves_list(hierarchy.optimal_leaf_ordering(tree, distance))
    return np.asarray(chosen[leaves])


def heat_map(matrix: Counts, class_names: Sequence[str]) -> Markup:
    """Draw the confusion matrix of many classes as a heat map; each square has a tooltip with its classes and count.

    Args:
        matrix: counts ``(classes, classes)``; rows are targets, columns are predictions.
        class_names: in the order of the matrix.
    """
    order = most_confused(matrix)
    size = 960.0
    longest = max(len(class_names[i]) for i in order)
    font = min(12.0, 720 / len(order))
    left = 0.56 * font * min(longest, _LONGEST) + 10  # room for the names
    cell = (size - left - 4) / len(order)
    squares, labels = [], []
    for y, target in enumerate(order):
        for x, (count, shade) in enumerate(shades(matrix[:, order], int(target))):
            if count:
                cls = f"{'hit' if x == y else 'miss'} v{math.ceil(_SHADES * shade / 100)}"
                text = (
                    f"{class_names[target]} predicted as {class_names[order[x]]}: {count}" if x != y else f"{class_names[target]}: {count}"
                )
                squares.append(el("rect", el("title", text), x=x, y=y, width=1, height=1, cls=cls))
        middle = left + cell * (y + 0.5)
        name = class_names[target] if len(class_names[target]) <= _LONGEST else class_names[target][: _LONGEST - 1] + "…"
        labels.append(el("text", name, x=left - 5, y=middle + 0.35 * font, cls="end", style=f"font-size:{font:.1f}px"))
        turned = f"rotate(-90 {middle + 0.35 * font:.1f} {left - 5:.1f})"
        labels.append(el("text", name, x=middle + 0.35 * font, y=left - 5, transform=turned, style=f"font-size:{font:.1f}px"))
    place = f"translate({left:.1f} {left:.1f}) scale({cell:.3f})"
    ground = el("rect", x=0, y=0, width=len(order), height=len(order), cls="ground")
    return drawing(f"Confusion matrix of {len(order)} classes", size, size, el("g", ground, *squares, transform=place), *labels, cls="heat")
