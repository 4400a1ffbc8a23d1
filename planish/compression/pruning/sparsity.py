"""Helpers of techniques that change individual weights: selection of layers, and setting weights to zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from planish.errors import TechniqueError

Layers = Literal["all", "conv", "linear"]


def weights_of(module: nn.Module, layers: Layers, *, depthwise: bool) -> dict[str, nn.Parameter]:
    """The weights of convolutions, linear layers or both, by layer name; a shared weight is listed once.

    Args:
        module: any network.
        layers: the kind of layers.
        depthwise: whether to include depthwise convolutions; they have few weights and are better not pruned (Zhu & Gupta 2017,
            arXiv:1710.01878).

    Raises:
        TechniqueError: there are no such layers.
    """
    conv, linear = nn.modules.conv._ConvNd, nn.Linear
    kinds = {"all": (conv, linear), "conv": (conv,), "linear": (linear,)}[layers]
    found: dict[nn.Parameter, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, kinds) and (depthwise or getattr(layer, "groups", 1) == 1 or layer.weight.shape[1] > 1):
            found.setdefault(layer.weight, name)  # type: ignore[arg-type]
    if not found:
        wanted = "convolution or linear layer" if layers == "all" else {"conv": "convolution", "linear": "linear layer"}[layers]
        raise TechniqueError(f"the network has no {wanted}", "it works on the weights of those", "leave this step out")
    return {name: weight for weight, name in found.items()}


def zeroed(module: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the network in which the weights of these layers are zero where their mask is False."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, mask in masks.items():
            weight: Tensor = module.get_submodule(name).weight  # type: ignore[assignment]
            weight.mul_(mask)
    return module


def describe_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> str:
    """Describe in a sentence what share of the weights is zero."""
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    weights, parameters = sum(mask.numel() for mask in masks.values()), sum(p.numel() for p in module.parameters())
    sparsest = max(masks, key=lambda name: float((~masks[name]).float().mean()))
    most = 100 * float((~masks[sparsest]).float().mean())
    return (
        f"{zeros:,} of {weights:,} weights in {len(masks)} layers are zero ({100 * zeros / parameters:.0f} % of all parameters; "
        f"most in {sparsest}: {most:.0f} %). The runtimes have no kernel that skips them: smaller once packed, not faster"
    )
