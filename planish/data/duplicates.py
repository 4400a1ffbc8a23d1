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
    flat = thumbs[first].reshape(len(first), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), _CONTRAST_FLOOR) * THUMB  # * THUMB: Euclidean distance becomes root mean square
    colour = (means[first] * _COLOUR_WEIGHT).astype(np.float32)
    low = dctn(flat.reshape(-1, THUMB, THUMB), axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(first), -1)
    pairs = _near(cKDTree(np.concatenate([low, colour], axis=1)))
    squared = np.concatenate([_squared(flat, colour, part) for part in np.array_split(pairs, len(pairs) // 50_000 + 1)])
    pairs = pairs[squared <= THRESHOLD**2]
    links = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    groups = connected_components(links, directed=False)[1]
    return np.asarray(groups, dtype=np.int64)[same.ravel()]


def _near(tree: cKDTree) -> npt.NDArray[np.int64]:
    """Index pairs of rows closer than the threshold, ``(P, 2)``."""
    if tree.count_neighbors(tree, THRESHOLD) <= 2 * _MOST_PAIRS:
        pairs: npt.NDArray[np.int64] = tree.query_pairs(THRESHOLD, output_type="ndarray")
        return pairs
    nearest = tree.query(tree.data, k=_NEAREST, distance_upper_bound=THRESHOLD)[1]
    pairs = np.stack([np.repeat(np.arange(tree.n), _NEAREST), nearest.ravel()], axis=1)
    kept: npt.NDArray[np.int64] = pairs[(pairs[:, 1] < tree.n) & (pairs[:, 0] != pairs[:, 1])]  # index tree.n: no such neighbour
    return kept


def _squared(flat: npt.NDArray[np.float32], colour: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    a, b = pairs[:, 0], pairs[:, 1]
    total: npt.NDArray[np.float32] = np.square(flat[a] - flat[b]).sum(axis=1) + np.square(colour[a] - colour[b]).sum(axis=1)
    return total
