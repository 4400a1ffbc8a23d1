"""COCO compressed run-length encoding of masks in pure NumPy, for the responses of the service."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BITS = 5  # payload bits per character
_WHOLE = (0.0, 0.0, 1.0, 1.0)


def run_lengths(mask: Any, size: tuple[int, int] | None = None, place: tuple[float, float, float, float] = _WHOLE) -> dict[str, Any]:
    """Encode a mask as ``{"size": [height, width], "counts": text}``, optionally enlarged or placed in a larger image.

    The result equals ``pycocotools.mask.encode`` of the mask after nearest-neighbour resizing to the image, but the resized mask is never
    created: the cost depends on the number of runs, not on the size of the image.

    Args:
        mask: bool ``(h, w)``.
        size: height and width of the image; None for the size of the mask.
        place: left, top, width and height of the mask in the image, normalized; the rest of the image is 0.
    """
    mask = np.asarray(mask, bool)
    height, width = mask.shape if size is None else size
    left, top, wide, high = place
    rows, columns = _edges(mask.shape[0], height, top, high), _edges(mask.shape[1], width, left, wide)
    of_column, first, last = _runs(mask, rows)
    # each image column has the runs of the corresponding mask column
    count = np.bincount(of_column, minlength=mask.shape[1])
    source = np.repeat(np.arange(mask.shape[1]), np.diff(columns))
    repeats = count[source]
    begin = np.repeat((np.cumsum(count) - count)[source], repeats)
    chosen = begin + np.arange(len(begin)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    offset = np.repeat(columns[0] + np.arange(len(source)), repeats) * height
    first, last = offset + first[chosen], offset + last[chosen]
    apart = first[1:] != last[:-1]  # a run may continue at the top of the next column
    bounds = np.stack([first[np.append(True, apart)[: len(first)]], last[np.append(apart, True)[: len(last)]]], axis=1).ravel()
    ends = bounds if len(bounds) and bounds[-1] == height * width else np.append(bounds, height * width)
    return {"size": [height, width], "counts": _text(np.diff(ends, prepend=0))}


def lengths_of(text: bytes) -> list[int]:
    """Decode COCO compressed counts to run lengths; the inverse of the encoding by ``run_lengths``.

    Raises:
        ValueError: the text ends within a number or has invalid characters.
    """
    found: list[int] = []
    value = shift = 0
    for letter in text:
        code = letter - 48
        if not 0 <= code < 1 << _BITS + 1:
            raise ValueError(f"the letter {chr(letter)!r} is not of COCO's run lengths")
        value |= (code & 0x1F) << shift
        shift += _BITS
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run lengths end within a number")
    return found


def _edges(count: int, side: int, start: float, share: float) -> npt.NDArray[np.int64]:
    """The first image row of each of ``count`` mask rows, and the end of the last one, ``(count + 1,)``; the image has ``side`` rows."""
    edges = (start + share * np.arange(count + 1) / count) * side
    return np.clip(np.ceil(np.round(edges, 6) - 0.5), 0, side).astype(np.int64)


def _runs(mask: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> tuple[Any, Any, Any]:
    """Mask column, first image row and end image row (exclusive) of each run."""
    padded = np.zeros((mask.shape[1], mask.shape[0] + 2), bool)
    padded[:, 1:-1] = mask.T
    column, row = np.nonzero(padded[:, 1:] != padded[:, :-1])
    first, last = rows[row[::2]], rows[row[1::2]]
    seen = last > first  # runs may vanish if the image is smaller than the mask
    return column[::2][seen], first[seen], last[seen]


def _text(counts: npt.NDArray[np.int64]) -> str:
    """Encode counts as text: from the fourth on as the difference from the count two before, five bits per character, lowest first."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    letters, used = [], []
    going = np.ones(len(values), bool)
    while going.any():
        low = values & 0x1F
        values = values >> _BITS
        more = values != np.where(low & 0x10, -1, 0)
        letters.append(low + 48 + 0x20 * more)
        used.append(going)
        going = going & more
    text: npt.NDArray[np.uint8] = np.stack(letters, 1)[np.stack(used, 1)].astype(np.uint8)
    return text.tobytes().decode()
