"""How much each unit of channels matters. A score is comparable across groups: 1 is the average of its group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from planish.compression.channel_labels import Dim
from planish.compression.structure import ChannelGraph

Importance = Literal["l2", "l1", "bn_scale", "taylor", "random"]
Floats = npt.NDArray[np.float64]
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # normalised images (N, C, H, W) and their targets
Loss = Callable[[Tensor, Tensor], Tensor]


def unit_scores(kind: Importance, module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> dict[int, float]:
    """A score for every unit of the graph; the smallest goes first.

    Args:
        kind: ``l1`` or ``l2`` norm of the weights that make and read a channel (Li et al. 2017, arXiv:1608.08710); ``bn_scale``, the
            batch-norm factor (Liu et al. 2017, arXiv:1708.06519), norms where there is none; ``taylor``, the squared first-order
            change of the loss (Molchanov et al. 2019, arXiv:1906.10771); ``random``, the control.
        batches: called for ``taylor`` only.
        loss: of outputs and targets, for ``taylor`` only.
    """
    if kind == "random":
        random = np.random.default_rng(0)
        return {unit: float(random.uniform()) for group in graph.groups for unit in group.units}
    if kind == "taylor":
        return _combine(graph, _taylor(module, graph, batches(), loss))
    norms = _combine(graph, _norms(module, graph, 1 if kind == "l1" else 2))
    return norms | _combine(graph, _scales(module)) if kind == "bn_scale" else norms


def _weights(module: nn.Module, graph: ChannelGraph) -> dict[Dim, Tensor]:
    """The weights of convolutions and linear layers, by the dimensions that can be cut."""
    parameters = dict(module.named_parameters())
    return {(n, d): parameters[n] for n, d in graph.classes if n in parameters and parameters[n].ndim > 1}


def _over_slices(values: Tensor, dim: int) -> Tensor:
    return values.transpose(0, dim).flatten(1).sum(1)


def _norms(module: nn.Module, graph: ChannelGraph, order: int) -> dict[Dim, Floats]:
    weights = _weights(module, graph)
    return {(n, d): _over_slices(w.detach().double().abs() ** order, d).cpu().numpy() ** (1 / order) for (n, d), w in weights.items()}


def _scales(module: nn.Module) -> dict[Dim, Floats]:
    return {
        (f"{name}.weight".lstrip("."), 0): layer.weight.detach().double().abs().cpu().numpy()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None
    }


def _taylor(module: nn.Module, graph: ChannelGraph, batches: Iterable[tuple[Tensor, Tensor]], loss: Loss) -> dict[Dim, Floats]:
    weights = _weights(module, graph)
    scores = {dim: np.zeros(w.shape[dim[1]]) for dim, w in weights.items()}
    unique = {id(w): w for w in weights.values()}
    for images, targets in batches:
        gradients = torch.autograd.grad(loss(module(images), targets), list(unique.values()), allow_unused=True)
        by_weight = dict(zip(unique, gradients, strict=True))
        for (name, dim), weight in weights.items():
            gradient = by_weight[id(weight)]
            if gradient is not None:
                scores[name, dim] += _over_slices((weight * gradient).detach().double(), dim).cpu().numpy() ** 2
    return scores


def _combine(graph: ChannelGraph, scores: Mapping[Dim, Floats]) -> dict[int, float]:
    """From slices to units: the mean over the layers a unit runs through, each layer counting alike, over the group's mean."""
    sums: dict[int, list[float]] = {}
    for dim, values in scores.items():
        classes = graph.classes.get(dim)
        if classes is None or values.mean() == 0:
            continue
        units, places = np.unique(classes, return_inverse=True)
        means = np.bincount(places, values / values.mean()) / np.bincount(places)
        for unit, mean in zip(units.tolist(), means.tolist(), strict=True):
            sums.setdefault(unit, []).append(mean)
    result: dict[int, float] = {}
    for group in graph.groups:
        if group.units[0] in sums:
            raw = np.array([np.mean(sums[unit]) for unit in group.units])
            result.update(zip(group.units, (raw / (raw.mean() or 1.0)).tolist(), strict=True))
    return result
