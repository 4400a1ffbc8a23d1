"""Structured pruning with Torch-Pruning, as its documentation recommends."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch_pruning as tp
from torch import nn

from planish.artifact import Artifact
from planish.models.heads.stem_and_classifier import find_classifier

_ROUND_TO = 8  # channels; what Torch-Pruning recommends for speed


def prune(original: Artifact, ratio: float) -> Artifact:
    """Remove that share of each layer's channels, those whose group has the smallest L2 norm; the classifier's outputs stay.

    Torch-Pruning rounds the channels that stay down to a multiple of ``round_to``, and where that is 0 it prunes nothing at all. So each
    layer is given the ratio that leaves the nearest multiple, at least one; layers narrower than that are left alone.
    """
    module, spec = copy.deepcopy(original.module), original.input_spec
    classifier = module.get_submodule(find_classifier(module, spec.channels, spec.height)[0])
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m is not classifier]
    pruner = tp.pruner.BasePruner(
        module,
        torch.zeros(1, spec.channels, spec.height, spec.width),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        pruning_ratio_dict={layer: _rounded(layer.weight.shape[0], ratio) for layer in layers},
        ignored_layers=[classifier],
        round_to=_ROUND_TO,
    )
    pruner.step()
    return replace(original, module=module, original=original)


def _rounded(width: int, ratio: float) -> float:
    """The ratio that leaves the multiple of ``_ROUND_TO`` nearest to ``(1 - ratio) * width``, and half a channel more against rounding."""
    kept = max(_ROUND_TO, _ROUND_TO * round((1 - ratio) * width / _ROUND_TO))
    return max(0.0, 1 - (kept + 0.5) / width)
