"""Near-duplicate detection with a perceptual descriptor. Exact copies are found by file hash, in ``planish.data.sources.report``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

THUMB = 16  # side of the grey thumbnails, in pixels
THRESHOLD = 0.1
_CONTRAST_FLOOR = 4.0  # grey levels; an image with a lower standard deviation is flat, and its texture is noise
_COLOUR_WEIGHT = 1.0
_FREQUENCIES = 4
_MOST_PAIRS = 5_000_000  # above this (thousands of frames of one static camera), each image is compared with its nearest neighbours only
_NEAREST = 32
_CHUNK = 50_000  # images or pairs at a time
_BLOCK = 1024  # rows that are compared as one matrix
_ROUNDING = 1e-4  # of a squared distance in float32


def thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The grey thumbnail, uint8 ``(THUMB, THUMB)``, of a decoded image ``(H, W, C)``."""
    pil = Image.fromarray(image[..., 0]) if image.shape[2] == 1 else Image.fromarray(image).convert("L")
    return np.asarray(pil.resize((THUMB, THUMB), Image.Resampling.BOX))


def near_duplicate_groups(thumbs: npt.NDArray[np.uint8], means: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Group images that show the same picture: recompressed, resized or slightly brightened copies.

    The distance between two images is the root mean square difference of their thumbnails, each normalized to mean 0 and standard
    deviation 1 so that low-contrast images do not all match, combined with the difference of their mean colours. Groups are the connected
    components of the pairs closer than ``THRESHOLD``. Candidate pairs are found by low DCT frequencies, as in the perceptual hash pHash,
    but not binarized: the orthonormal DCT preserves distances, so a search in these few dimensions misses no pair (as long as there are at
    most ``_MOST_PAIRS``), and every candidate is confirmed on the full thumbnail.

    Args:
        thumbs: uint8 ``(N, THUMB, THUMB)``.
        means: mean colour on the 0..1 scale, ``(N, 3)``.

    Returns:
        Group index of each image, ``(N,)``; images with the same index are near duplicates.
    """
    count = len(thumbs)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    # Merge identical thumbnails first: thousands of copies would otherwise make millions of pairs.
    whole = np.concatenate([thumbs.reshape(count, -1), np.rint(means * 255).astype(np.uint8)], axis=1)
    _, first, same = np.unique(np.ascontiguousarray(whole).view(f"V{whole.shape[1]}").ravel(), return_index=True, return_inverse=True)
    small, colour = thumbs[first].reshape(len(first), -1), (means[first] * _COLOUR_WEIGHT).astype(np.float32)
    chunks = np.array_split(np.arange(len(first)), len(first) // _CHUNK + 1)
    low = np.concatenate([_low_frequencies(_normalized(small[rows])) for rows in chunks])
    pairs = _near(np.concatenate([low, colour], axis=1))
    squared = np.concatenate([_squared(small, colour, part) for part in np.array_split(pairs, len(pairs) // _CHUNK + 1)])
    pairs = pairs[squared <= THRESHOLD**2]
    links = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    groups = connected_components(links, directed=False)[1]
    return np.asarray(groups, dtype=np.int64)[same.ravel()]


def _normalized(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Thumbnails ``(N, THUMB * THUMB)`` of mean 0 and standard deviation 1, scaled so that distances are root mean squares."""
    flat = thumbs.astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), _CONTRAST_FLOOR) * THUMB
    return flat


def _low_frequencies(flat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    spectrum = dctn(flat.reshape(-1, THUMB, THUMB), axes=(1, 2), norm="ortho")
    low: npt.NDArray[np.float32] = spectrum[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(flat), -1)
    return low


def _near(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Index pairs of rows closer than the threshold, ``(P, 2)``, and perhaps some that are hardly farther.

    Rows are sorted into blocks that are compared as matrix products, unless their bounding boxes are too far apart: with 19 columns, trees
    compare nearly as many rows, one by one.
    """
    blocks = _blocks(points, np.arange(len(points)))
    order, ends = np.concatenate(blocks), np.cumsum([len(rows) for rows in blocks])
    sides = [slice(end - len(rows), end) for end, rows in zip(ends.tolist(), blocks, strict=True)]
    points = points[order]
    low, high = (np.stack([bound(points[side], axis=0) for side in sides]) for bound in (np.min, np.max))
    squares, ones = np.square(points).sum(axis=1, keepdims=True), np.ones((len(points), 1), np.float32)
    left, right = np.concatenate([-2 * points, squares, ones], axis=1), np.concatenate([points, ones, squares], axis=1)
    found: list[npt.NDArray[np.int64]] = []
    count = 0
    for number, side in enumerate(sides):
        gaps = np.maximum(0, np.maximum(low[number:] - high[number], low[number] - high[number:]))
        for other in number + np.flatnonzero(np.square(gaps).sum(axis=1) <= THRESHOLD**2):
            a, b = np.nonzero(left[side] @ right[sides[other]].T <= THRESHOLD**2 + _ROUNDING)
            pairs = np.stack([a + side.start, b + sides[other].start], axis=1)
            found.append(order[pairs[pairs[:, 0] < pairs[:, 1]]])
            count += len(found[-1])
            if count > _MOST_PAIRS:
                return _nearest(points, order)
    return np.concatenate(found)


def _blocks(points: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Rows in blocks of near ones: halved at the median of the column with the widest range until they are small."""
    if len(rows) <= _BLOCK:
        return [rows]
    column = points[rows, np.ptp(points[rows], axis=0).argmax()]
    order = np.argpartition(column, len(rows) // 2)
    return [block for half in np.split(rows[order], [len(rows) // 2]) for block in _blocks(points, half)]


def _nearest(points: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs of ``order``, the indices of the rows, that are closer than the threshold, of each row only the nearest."""
    tree = cKDTree(points)
    nearest = tree.query(tree.data, k=_NEAREST, distance_upper_bound=THRESHOLD)[1]
    pairs = np.stack([np.repeat(np.arange(tree.n), _NEAREST), nearest.ravel()], axis=1)
    kept: npt.NDArray[np.int64] = order[pairs[(pairs[:, 1] < tree.n) & (pairs[:, 0] != pairs[:, 1])]]  # index tree.n: no such neighbour
    return kept


def _squared(small: npt.NDArray[np.uint8], colour: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    a, b = pairs[:, 0], pairs[:, 1]
    difference = _normalized(small[a]) - _normalized(small[b])
    total: npt.NDArray[np.float32] = np.square(difference).sum(axis=1) + np.square(colour[a] - colour[b]).sum(axis=1)
    return total
