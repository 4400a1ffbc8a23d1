"""Weight sharing: each layer uses only a few distinct weight values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from planish.artifact import Artifact, Step
from planish.compression.pruning.sparsity import Layers, weights_of
from planish.errors import TechniqueError
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_ROUNDS = 100


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WeightSharing:
    """Replace the weights of each layer by the nearest of ``2 ** bits`` values, chosen by k-means. Distillation trains these values.

    Zeros of a pruned network stay zero, in addition to the values of the codebook. This makes the file smaller (end the plan with
    ``to_onnx, pack``), not the model faster: the runtime gets all weights in float. Batch norm is exported as separate nodes, because
    folding it into the convolutions would give every channel its own values; the runtimes fold it when they load the file.

    Args:
        bits: bits per index into the codebook.
        per_channel: use one codebook per output channel instead of one per layer (per input channel in transposed convolutions); more
            accurate, but larger.
        layers: ``all``, ``conv`` or ``linear``.

    Example:
        >>> print(WeightSharing(bits=4))
        16 shared weights a layer
    """

    bits: int = Field(default=4, ge=1, le=8)
    per_channel: bool = False
    layers: Layers = "all"

    name: ClassVar[str] = "weight_sharing"
    reference: ClassVar[str] = "Han et al. 2016, Deep Compression, arXiv:1510.00149"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "format": ("torch",),
        "precision": ("fp32",),
        "weights": ("dense", "sparse", "n:m"),
    }

    @property
    def changes(self) -> dict[str, str]:
        return {"weights": "shared per channel" if self.per_channel else "shared"}

    def __str__(self) -> str:
        return f"{2**self.bits} shared weights a {'channel' if self.per_channel else 'layer'}"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Cluster the weights of each layer.

        Raises:
            TechniqueError: there is no such layer, or weights are not finite.
        """
        module = copy.deepcopy(artifact.module)
        errors, powers = 0.0, 0.0
        weights = weights_of(module, self.layers, depthwise=True)
        for name, parameter in weights.items():
            weight = parameter.detach().double().cpu().numpy()
            if not np.isfinite(weight).all():
                raise TechniqueError(f"weights of {name!r} are not finite", "they are clustered by their distance", "train it again")
            channels = len(weight) if self.per_channel else 1
            places = np.flatnonzero(weight)
            shared = np.zeros(weight.size)
            shared[places] = cluster(weight.flat[places], places // (weight.size // channels), channels, 2**self.bits)
            errors, powers = errors + float(((shared - weight.ravel()) ** 2).sum()), powers + float((weight**2).sum())
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(shared.reshape(weight.shape)))
        noise = 10 * np.log10(powers / errors) if errors else np.inf
        notes = f"{len(weights)} layers of {2**self.bits} values, signal to noise {noise:.1f} dB; smaller once packed, not faster"
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, notes=notes), module=module)


def cluster(values: Floats, rows: Ints, number_of_rows: int, clusters: int) -> Floats:
    """Replace each value by the nearest centroid of its row: one-dimensional k-means for all rows at once (Lloyd 1982).

    Initial centroids are spread evenly over the range of each row, which preserves large weights best (Han et al. 2016). As the values are
    sorted, each cluster is an interval, so an iteration needs only the interval borders and prefix sums.

    Args:
        values: the values, in any order.
        rows: the row of each value, 0 to ``number_of_rows - 1``.
        number_of_rows: number of rows; some may be empty.
        clusters: number of centroids per row.
    """
    if len(values) == 0:
        return values
    order = np.lexsort((values, rows))
    sorted_values = values[order]
    ends = np.cumsum(np.bincount(rows, minlength=number_of_rows))
    starts = np.concatenate([[0], ends[:-1]])
    present = np.flatnonzero(ends > starts)  # rows that are not empty
    low, high = sorted_values[starts[present]], sorted_values[ends[present] - 1]
    scale = np.where(high > low, high - low, 1.0)
    # Map all rows to one sorted array: row r lies in [2r, 2r + 1].
    line = 2.0 * np.repeat(np.arange(len(present)), ends[present] - starts[present])
    line += (sorted_values - np.repeat(low, ends[present] - starts[present])) / np.repeat(scale, ends[present] - starts[present])
    sums = np.concatenate([[0.0], np.cumsum(sorted_values)])
    centroids = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, clusters)
    borders = np.empty((len(present), clusters + 1), np.int64)
    borders[:, 0], borders[:, -1] = starts[present], ends[present]
    for _ in range(_MOST_ROUNDS):
        middles = (centroids[:, 1:] + centroids[:, :-1]) / 2
        found = np.searchsorted(line, 2.0 * np.arange(len(present))[:, None] + (middles - low[:, None]) / scale[:, None])
        borders[:, 1:-1] = np.maximum.accumulate(np.clip(found, borders[:, :1], borders[:, -1:]), axis=1)
        counts = np.diff(borders, axis=1)
        means = np.diff(sums[borders], axis=1) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    result = np.empty(len(values))
    result[order] = np.repeat(centroids.ravel(), np.diff(borders, axis=1).ravel())
    return result
