"""Finding copies of images: exact ones by the hash of the file, near ones by a perceptual descriptor."""

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
_CONTRAST_FLOOR = 4.0  # grey levels; below this an image is flat and its texture is noise
_COLOUR_WEIGHT = 1.0
_FREQUENCIES = 4
_MOST_PAIRS = 5_000_000  # beyond, as with thousands of frames of one still camera, each image is linked to its nearest ones only
_NEAREST = 32


def thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A grey thumbnail, uint8 ``(THUMB, THUMB)``, of a decoded image ``(H, W, C)``."""
    pil = Image.fromarray(image[..., 0]) if image.shape[2] == 1 else Image.fromarray(image).convert("L")
    return np.asarray(pil.resize((THUMB, THUMB), Image.Resampling.BOX))


def near_duplicate_groups(thumbs: npt.NDArray[np.uint8], means: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Number the groups of images that show the same picture: recompressed, resized, slightly brightened.

    The distance of two images is the root mean square difference of their thumbnails, each shifted to mean 0 and scaled to contrast 1, so
    that flat pictures are not all alike; the difference of their mean colours counts as well. Groups are what pairs nearer
    than ``THRESHOLD`` connect. The pairs are found as in the perceptual hash pHash, by low DCT frequencies, but kept as numbers: the
    transform preserves distances, so a search in those few dimensions misses no pair, and every hit is confirmed on the whole thumbnail.

    Args:
        thumbs: uint8 ``(N, THUMB, THUMB)``.
        means: mean colour on the 0..1 scale, ``(N, 3)``.

    Returns:
        ``(N,)``; images with the same number are near duplicates.
    """
    count = len(thumbs)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    # Identical thumbnails first: thousands of copies would otherwise make millions of pairs.
    whole = np.concatenate([thumbs.reshape(count, -1), np.rint(means * 255).astype(np.uint8)], axis=1)
    _, first, same = np.unique(np.ascontiguousarray(whole).view(f"V{whole.shape[1]}").ravel(), return_index=True, return_inverse=True)
    flat = thumbs[first].reshape(len(first), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(flat.std(axis=1, keepdims=True), _CONTRAST_FLOOR) * THUMB  # by THUMB: Euclidean distance becomes root mean square
    colour = (means[first] * _COLOUR_WEIGHT).astype(np.float32)
    low = dctn(flat.reshape(-1, THUMB, THUMB), axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES].reshape(len(first), -1)
    pairs = _near(cKDTree(np.concatenate([low, colour], axis=1)))
    squared = np.concatenate([_squared(flat, colour, part) for part in np.array_split(pairs, len(pairs) // 50_000 + 1)])
    pairs = pairs[squared <= THRESHOLD**2]
    links = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(first), len(first)))
    groups = connected_components(links, directed=False)[1]
    return np.asarray(groups, dtype=np.int64)[same.ravel()]


def _near(tree: cKDTree) -> npt.NDArray[np.int64]:
    """Pairs of rows within the threshold, ``(P, 2)``."""
    if tree.count_neighbors(tree, THRESHOLD) <= 2 * _MOST_PAIRS:
        pairs: npt.NDArray[np.int64] = tree.query_pairs(THRESHOLD, output_type="ndarray")
        return pairs
    nearest = tree.query(tree.data, k=_NEAREST, distance_upper_bound=THRESHOLD)[1]
    pairs = np.stack([np.repeat(np.arange(tree.n), _NEAREST), nearest.ravel()], axis=1)
    kept: npt.NDArray[np.int64] = pairs[(pairs[:, 1] < tree.n) & (pairs[:, 0] != pairs[:, 1])]  # tree.n stands for "no such neighbour"
    return kept


def _squared(flat: npt.NDArray[np.float32], colour: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    a, b = pairs[:, 0], pairs[:, 1]
    total: npt.NDArray[np.float32] = np.square(flat[a] - flat[b]).sum(axis=1) + np.square(colour[a] - colour[b]).sum(axis=1)
    return total
