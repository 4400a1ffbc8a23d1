"""Quantization ranges of activations, observed on calibration images and clipped where that reduces the error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from planish.compression.graph.onnx_graph import session_for

if TYPE_CHECKING:
    from planish.artifact import Pixels

Calibrator = Literal["minmax", "percentile", "entropy", "mse"]
Floats = npt.NDArray[np.float64]
Range = tuple[float, float]

_BINS = 2048
_STEPS = 256
_TAIL = 1e-5  # share of the values that ``percentile`` clips, both ends together
_MOST_CUT = 1e-3  # largest share of the values that ``entropy`` may clip
_CUTS = np.linspace(0.1, 1.0, 91)  # fractions of the full range that ``entropy`` tries
_ENDS = np.geomspace(0.02, 1.0, 118)  # fractions of each end of the range that ``mse`` tries


def activation_ranges(file: Path, batches: Callable[[], Iterable[Pixels]], method: Calibrator) -> dict[str, Range]:
    """The range of every float activation of an ONNX file, by name; each contains 0, as a quantized range must.

    Zeros are left out of the histograms that all methods but ``minmax`` use: every range represents them exactly, and after a ReLU, where
    most values may be zero, the non-zero values would otherwise be clipped.

    Args:
        file: an ONNX file that takes uint8 ``images`` ``(N, H, W, C)``.
        batches: returns batches of calibration images, the same ones at every call.
        method: ``minmax`` for the full range, or a key of ``CALIBRATORS``.
    """
    session, names = _watching(file)
    ends: dict[str, Range] = {}
    for images in batches():
        for name, values in zip(names, session.run(names, {"images": images}), strict=True):
            low, high = ends.get(name, (0.0, 0.0))
            ends[name] = min(low, float(values.min(initial=0))), max(high, float(values.max(initial=0)))
    if method == "minmax":
        return ends
    counts = {name: np.zeros(_BINS) for name in ends}
    for images in batches():
        for name, values in zip(names, session.run(names, {"images": images}), strict=True):
            if ends[name][0] < ends[name][1]:
                counts[name] += np.histogram(values[values != 0], _BINS, ends[name])[0]
    return {name: CALIBRATORS[method](counts[name], ends[name]) if low < high else (low, high) for name, (low, high) in ends.items()}


def percentile(counts: Floats, ends: Range) -> Range:
    """Clip at the 99.999th percentile of the non-zero values; the clipped share is split evenly if both ends of the range are non-zero."""
    edges, share = np.linspace(*ends, _BINS + 1), np.cumsum(counts) / counts.sum()
    each = _TAIL / ((ends[0] < 0) + (ends[1] > 0))
    low = edges[np.searchsorted(share, each)] if ends[0] < 0 else 0.0
    high = edges[np.searchsorted(share, 1 - each) + 1] if ends[1] > 0 else 0.0
    return min(0.0, float(low)), max(0.0, float(high))


def mse(counts: Floats, ends: Range) -> Range:
    """Minimise the mean squared error of rounding inside the range and clipping outside it (Sung et al. 2015, arXiv:1511.06488)."""
    centres = np.linspace(*ends, 2 * _BINS + 1)[1::2]
    low, high = (side.ravel() for side in np.meshgrid(ends[0] * _ENDS, ends[1] * _ENDS))
    step = (high - low) / (_STEPS - 1)
    zero_point = np.rint(-low / step)  # rounding the zero point shifts the range by up to half a step
    below, clipped_below = _clipped(counts, -centres, zero_point * step)
    above, clipped_above = _clipped(counts[::-1], centres[::-1], (_STEPS - 1 - zero_point) * step)
    errors = clipped_below + clipped_above + (counts.sum() - below - above) * step**2 / 12
    best = int(errors.argmin())
    return float(low[best]), float(high[best])


def _clipped(counts: Floats, distances: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """The number of values beyond each of ``ends``, and the sum of their squared distances from it; the most distant bins come first."""
    number, total, squares = (np.concatenate([[0.0], np.cumsum(counts * distances**power)]) for power in (0, 1, 2))
    beyond = np.searchsorted(-distances, -ends)
    return number[beyond], squares[beyond] - 2 * ends * total[beyond] + ends**2 * number[beyond]


def entropy(counts: Floats, ends: Range) -> Range:
    """Minimise the Kullback-Leibler divergence between the distributions of the clipped and the quantized values (Migacz 2017).

    At most a thousandth of the values is clipped, as the divergence does not depend on how far outside the range they lie.
    """
    centres = np.linspace(*ends, 2 * _BINS + 1)[1::2]
    cuts = [(ends[0] * c, ends[1] * c) for c in _CUTS]
    return cuts[int(np.argmin([_divergence(counts, centres, cut) for cut in cuts]))]


CALIBRATORS: Mapping[str, Callable[[Floats, Range], Range]] = {"percentile": percentile, "entropy": entropy, "mse": mse}


def _divergence(counts: Floats, centres: Floats, cut: Range) -> float:
    inside = (centres >= cut[0]) & (centres <= cut[1])
    if counts[~inside].sum() > _MOST_CUT * counts.sum():
        return np.inf
    clipped = counts * inside  # values outside the range are counted in the end bins
    clipped[np.argmax(inside)] += counts[centres < cut[0]].sum()
    clipped[len(inside) - 1 - np.argmax(inside[::-1])] += counts[centres > cut[1]].sum()
    steps = np.clip(np.rint((centres - cut[0]) / ((cut[1] - cut[0]) / (_STEPS - 1))), 0, _STEPS - 1).astype(int)
    seen = inside & (counts > 0)  # the count of a quantization level is spread over its non-empty bins
    held = np.bincount(steps[inside], counts[inside], _STEPS)
    bins = np.bincount(steps[seen], minlength=_STEPS)
    rounded = np.where(seen, held[steps] / np.maximum(bins[steps], 1), 0)
    p, q = clipped / clipped.sum(), np.maximum(rounded / max(rounded.sum(), 1), 1e-12)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def _watching(file: Path) -> tuple[Any, list[str]]:
    """Create a session that returns every float activation; also returns their names."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(file)))
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    names = [name for name in made if kinds.get(name) == onnx.TensorProto.FLOAT]
    return session_for(model, names), names
