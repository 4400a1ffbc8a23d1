"""Unstructured pruning: individual weights are set to zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.pruning.importance import weight_taylor
from planish.compression.pruning.sparsity import Layers, describe_zeros, weights_of, zeroed
from planish.errors import TechniqueError
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_LEAST = 0.1  # every layer keeps at least this fraction of the average share of weights kept


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UnstructuredPruning:
    """Set the least important weights to zero. Distillation afterwards keeps the zeros.

    This makes the file smaller (end the plan with ``to_onnx, pack``), not the model faster: dense kernels multiply by zero as well.
    Biases, normalisation layers and depthwise convolutions are not pruned.

    Args:
        sparsity: share of the weights that are zero afterwards, 0 to below 1; weights that are already zero count.
        scope: ``layer`` prunes the same share of every layer; ``global`` ranks all weights of the network together, but every
            layer keeps at least a tenth of the share it would keep with ``layer``.
        importance: ``magnitude``; ``taylor``, the squared first-order change of the loss (Molchanov et al. 2019); ``random``, the baseline.
        layers: ``all``, ``conv`` or ``linear``.

    Example:
        >>> print(UnstructuredPruning(sparsity=0.8))
        80 % zeros
    """

    sparsity: float = Field(ge=0, lt=1)
    scope: Literal["layer", "global"] = "global"
    importance: Literal["magnitude", "taylor", "random"] = "magnitude"
    layers: Layers = "all"

    name: ClassVar[str] = "unstructured_pruning"
    reference: ClassVar[str] = "Han et al. 2015, Learning both Weights and Connections, arXiv:1506.02626"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "format": ("torch",),
        "precision": ("fp32",),
        "weights": ("dense", "sparse"),
    }

    @property
    def changes(self) -> dict[str, str]:
        return {"weights": "sparse"}

    def __str__(self) -> str:
        return f"{100 * self.sparsity:.0f} % zeros"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Set the least important weights to zero.

        Raises:
            TechniqueError: there is no such layer, or the scores are not finite.
        """
        module = copy.deepcopy(artifact.module).cpu().eval()
        weights = weights_of(module, self.layers, depthwise=False)
        if self.importance == "taylor":
            scores = weight_taylor(module, list(weights.values()), calibration_batches(artifact, task), task.loss)
        elif self.importance == "random":
            generator = torch.Generator().manual_seed(0)
            scores = [torch.rand(w.shape, generator=generator) for w in weights.values()]
        else:
            scores = [w.detach().abs() for w in weights.values()]
        scores = [score.contiguous() for score in scores]  # those of weights in channels-last layout are not
        for (name, weight), score in zip(weights.items(), scores, strict=True):
            if not torch.isfinite(score).all():
                raise TechniqueError(f"the importance of weights in {name!r} is not finite", "weights and loss must be", "train it again")
            score[weight == 0] = -1  # pruned weights stay pruned
        if self.scope == "layer":
            kept = [_largest(score, self.sparsity) for score in scores]
        else:
            for score in scores:  # no layer may be pruned entirely (Tanaka et al. 2020, arXiv:2006.05467)
                flat = score.view(-1)
                flat[flat.topk(math.ceil(_LEAST * (1 - self.sparsity) * len(flat))).indices] = torch.inf
            together = _largest(torch.cat([score.flatten() for score in scores]), self.sparsity)
            parts = torch.split_with_sizes(together, [score.numel() for score in scores])
            kept = [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]
        masks = {name: mask.to(artifact.module.get_submodule(name).weight.device) for name, mask in zip(weights, kept, strict=True)}
        params = hyper_parameters(self)
        step = Step(self.name, params, self.changes, notes=describe_zeros(module, masks))
        return artifact.with_step(step, module=zeroed(artifact.module, masks))


def _largest(scores: Tensor, sparsity: float) -> Tensor:
    """Return a mask that is False for the smallest scores, a share of ``sparsity``, and for negative scores."""
    mask = scores.flatten() >= 0
    mask[scores.flatten().topk(round(sparsity * scores.numel()), largest=False).indices] = False
    return mask.view(scores.shape)
