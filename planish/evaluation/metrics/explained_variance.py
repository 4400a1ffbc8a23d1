"""Explained variance of raw outputs: how near the outputs of one network are to those of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from planish.errors import ModelError

Floats = npt.NDArray[np.float64]
_ROWS = 16  # images at once, as outputs may be large
_CONSTANT = 1e-10  # variance relative to the mean square below which an output is the same for all images, but for rounding


@dataclass(frozen=True, eq=False)
class OutputTargets(Sequence[Mapping[str, Any]]):
    """Outputs of a network as targets, one mapping of arrays per image.

    Args:
        outputs: by name, float ``(N, ...)``; may be memory-mapped.
    """

    outputs: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values())))

    def __getitem__(self, row: Any) -> Any:
        return {name: values[row] for name, values in self.outputs.items()}


def explained_variance(outputs: Mapping[str, Any], targets: OutputTargets) -> dict[str, Floats]:
    """Return the explained variance of each image ``(N,)``, by output: 1 - squared error / variance, at least 0.

    The variance is that of each element over the images, the mean over the elements, so that what does not depend on the image, such as
    positions in a grid, does not count. Outputs that are the same for all images are left out.

    Args:
        outputs: of the model that is judged, by name ``(N, ...)``.
        targets: of the original.

    Raises:
        ModelError: shapes differ, or no output depends on the image.
    """
    found = {}
    for name, wanted in targets.outputs.items():
        given = outputs.get(name)
        if given is None or given.shape != wanted.shape:
            raise ModelError(
                f"output {name!r} of shape {None if given is None else given.shape[1:]}", f"the original's has {wanted.shape[1:]}"
            )
        variance = _variance(wanted)
        if variance > _CONSTANT * float(_squared_errors(np.broadcast_to(np.zeros(wanted.shape[1:]), wanted.shape), wanted).mean()):
            found[name] = np.clip(1 - np.nan_to_num(_squared_errors(given, wanted), nan=np.inf) / variance, 0, 1)
    if not found:
        raise ModelError("no output depends on the image", "the outputs are what is compared", "give other images")
    return found


def _squared_errors(given: Any, wanted: Any) -> Floats:
    """Return the mean squared error of each image ``(N,)``."""
    parts = (np.asarray(given[i : i + _ROWS], np.float64) - wanted[i : i + _ROWS] for i in range(0, len(wanted), _ROWS))
    return np.concatenate([np.square(part).reshape(len(part), -1).mean(axis=1) for part in parts])


def _variance(values: Any) -> float:
    """Return the variance of each element over the images, the mean over the elements."""
    mean = np.mean(values, axis=0, dtype=np.float64)
    return float(_squared_errors(np.broadcast_to(mean, values.shape), values).mean())
