"""N:M sparsity: at most N of every M consecutive weights are non-zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from planish.artifact import Artifact, Step
from planish.compression.pruning.sparsity import Layers, describe_zeros, weights_of, zeroed
from planish.errors import TechniqueError
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NMPruning:
    """Keep the ``n`` largest of every ``m`` consecutive weights along the input channels. Distillation keeps the zeros.

    NVIDIA GPUs since Ampere have kernels for the 2:4 pattern. The runtimes supported here have none, so with them the file is smaller once
    packed, but the model is not faster. Depthwise convolutions and layers whose number of input channels is not a multiple of ``m`` (mostly
    the first one) stay dense.

    Args:
        n: number of weights to keep in each group, at least 1.
        m: number of weights in each group, more than ``n``.
        layers: ``all``, ``conv`` or ``linear``.

    Example:
        >>> print(NMPruning())
        2:4 sparse
    """

    n: int = Field(default=2, ge=1)
    m: int = Field(default=4, ge=2)
    layers: Layers = "all"

    name: ClassVar[str] = "nm_pruning"
    reference: ClassVar[str] = "Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, arXiv:2104.08378"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "format": ("torch",),
        "precision": ("fp32",),
        "weights": ("dense", "sparse"),
    }

    @model_validator(mode="after")
    def _fewer_than_all(self) -> NMPruning:
        if self.n >= self.m:
            raise ValueError(f"n is {self.n} and m {self.m}; n must be below m")
        return self

    @property
    def changes(self) -> dict[str, str]:
        return {"weights": "n:m"}

    def __str__(self) -> str:
        return f"{self.n}:{self.m} sparse"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Set the smallest weights of each group to zero.

        Raises:
            TechniqueError: no layer has a multiple of ``m`` input channels, or weights are not finite.
        """
        weights = weights_of(artifact.module, self.layers, depthwise=False)
        inputs = {name: _inputs(artifact.module.get_submodule(name)) for name in weights}
        fit = {name: w.detach() for name, w in weights.items() if inputs[name][1] % self.m == 0}
        if not fit:
            raise TechniqueError(
                f"no layer has a multiple of {self.m} input channels", "m weights lie side by side along them", "use a smaller m"
            )
        for name, weight in fit.items():
            if not torch.isfinite(weight).all():
                raise TechniqueError(f"weights of {name!r} are not finite", "the largest are kept", "train it again")
        masks = {name: _largest(weight, self.n, self.m, inputs[name][0]) for name, weight in fit.items()}
        dense = [name for name in weights if name not in fit]
        notes = describe_zeros(artifact.module, masks) + (
            f". Dense, as {self.m} does not divide their inputs: {', '.join(dense)}" if dense else ""
        )
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, notes=notes), module=zeroed(artifact.module, masks))


def _inputs(layer: Any) -> tuple[int, int]:
    """The axis of the weight along the input channels, and how many an output reads; the first axis in transposed convolutions."""
    if getattr(layer, "transposed", False):
        return 0, layer.in_channels // layer.groups
    return 1, layer.weight.shape[1]


def _largest(weight: Tensor, n: int, m: int, axis: int) -> Tensor:
    """Return a mask that is True for the ``n`` largest of every ``m`` weights along an axis."""
    side_by_side = weight.abs().movedim(axis, -1)
    parts = side_by_side.reshape(-1, m)
    mask = torch.zeros_like(parts, dtype=torch.bool).scatter_(1, parts.topk(n, dim=1).indices, True)
    return mask.view(side_by_side.shape).movedim(-1, axis)
