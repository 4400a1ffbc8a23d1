"""Importance scores of units of channels. Scores are comparable between groups: the average of each group is 1.

An importance is a function ``(module, graph, batches, loss) -> {unit: score}``; units with the smallest scores are removed first. To add
one, write a function here, and add it to ``IMPORTANCES`` and its name to ``Importance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from planish.compression.graph.label_classes import Dim
from planish.compression.graph.structure import ChannelGraph
from planish.errors import TechniqueError
from planish.models.strided import SafeStrides

Importance = Literal["l2", "l1", "bn_scale", "activation", "taylor", "hessian", "random"]
Floats = npt.NDArray[np.float64]
Batches = Callable[[], Iterable[tuple[Tensor, Any]]]  # normalised images (N, C, H, W) and their targets
Loss = Callable[[nn.Module, Any, Any], Tensor]
Scores = dict[int, float]

_PROBES = 4  # random sign vectors per batch


def unit_scores(kind: Importance, module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The score of every unit of the graph; units with the smallest scores are removed first.

    Args:
        kind: a name in ``IMPORTANCES``.
        module: the network, in eval mode; not changed.
        graph: the channel graph of the network.
        batches: returns calibration batches; not called by importances that use the weights alone.
        loss: the task's loss.
    """
    average = {unit: 1.0 for group in graph.groups for unit in group.units}  # for units that the importance gives no score
    return average | IMPORTANCES[kind](module, graph, batches, loss)


def norm(order: int, module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The L1 or L2 norm of the weights that output and read a channel (Li et al. 2017, arXiv:1608.08710)."""
    weights = _weights(module, graph).items()
    norms = {(n, d): _over_slices(w.detach().double().abs() ** order, d).cpu().numpy() ** (1 / order) for (n, d), w in weights}
    return _combine(graph, norms)


def bn_scale(module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The absolute weight of batch norm (Liu et al. 2017, arXiv:1708.06519), or the L2 norm of the weights where there is no batch norm."""
    scales = {
        (f"{name}.weight".lstrip("."), 0): layer.weight.detach().double().abs().cpu().numpy()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None
    }
    return norm(2, module, graph, batches, loss) | _combine(graph, scales)


def activation(module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The mean absolute activation that the following layers read (after Hu et al. 2016, arXiv:1607.03250, who count zeros instead)."""
    sums: dict[Dim, Floats] = {}

    def add(name: str, layer: nn.Module, inputs: Sequence[Tensor]) -> None:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        read = inputs[0].detach().double().abs().movedim(axis, 0).flatten(1).sum(1).cpu().numpy()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        is_depthwise = weight.shape[1] == 1 < len(read)
        # Depthwise: one or several outputs per channel. Otherwise, channels at the same index of each group share a weight slice.
        slices = read.repeat(len(weight) // len(read)) if is_depthwise else read.reshape(-1, weight.shape[1]).sum(0)
        dim = (f"{name}.weight", 0 if is_depthwise else 1)
        sums[dim] = sums.get(dim, np.zeros(len(slices))) + slices

    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [m.register_forward_pre_hook(lambda m, inputs, n=n: add(n, m, inputs)) for n, m in layers]
    try:
        with torch.no_grad():
            for images, _ in batches():
                module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return _combine(graph, sums)


def taylor(module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The squared first-order change of the loss when a channel is removed (Molchanov et al. 2019, arXiv:1906.10771)."""
    weights = _weights(module, graph)
    scores = {dim: np.zeros(w.shape[dim[1]]) for dim, w in weights.items()}
    unique = list({id(w): w for w in weights.values()}.values())
    for gradients in _gradients(module, unique, batches, loss):
        by_weight = dict(zip(map(id, unique), gradients, strict=True))
        for (name, dim), weight in weights.items():
            products = (weight * by_weight[id(weight)]).detach().double()
            scores[name, dim] += _over_slices(products, dim).cpu().numpy() ** 2
    return _combine(graph, scores)


def hessian(module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """The second-order change of the loss: half the mean curvature of a channel's weights times their squared norm.

    This is optimal brain damage (LeCun et al. 1989) with the diagonal of the Hessian averaged over a channel, as in Yu et al. 2021
    (arXiv:2101.08940), and estimated by Hutchinson's method: products of the Hessian with four random sign vectors per batch. The absolute
    value of the mean curvature is used, as it can be negative away from a minimum.
    """
    weights = _weights(module, graph)
    unique = list({id(w): w for w in weights.values()}.values())
    diagonal = {id(w): torch.zeros_like(w) for w in unique}
    generator = torch.Generator().manual_seed(0)
    for gradients in _gradients(module, unique, batches, loss, create_graph=True):
        for _ in range(_PROBES):
            signs = [torch.randint(0, 2, w.shape, generator=generator).to(w) * 2 - 1 for w in unique]
            product = sum((g * s).sum() for g, s in zip(gradients, signs, strict=True))
            try:
                curvatures = torch.autograd.grad(product, unique, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
            except RuntimeError as error:  # an operation has no second derivative
                raise _not_smooth(str(error)) from error
            for weight, sign, curvature in zip(unique, signs, curvatures, strict=True):
                if curvature is not None:
                    diagonal[id(weight)] += sign * curvature
    if not any(d.any() for d in diagonal.values()):
        raise _not_smooth("it is zero everywhere")
    scores = {}
    for (name, dim), weight in weights.items():
        curvature = _over_slices(diagonal[id(weight)].double(), dim).abs()
        squares = _over_slices(weight.detach().double() ** 2, dim)
        scores[name, dim] = (0.5 * curvature * squares * weight.shape[dim] / weight.numel()).cpu().numpy()
    return _combine(graph, scores)


def _not_smooth(reason: str) -> TechniqueError:
    return TechniqueError(
        f"the network has no second derivative: {reason}", "importance 'hessian' is made of it", "use importance 'taylor'"
    )


def random(module: nn.Module, graph: ChannelGraph, batches: Batches, loss: Loss) -> Scores:
    """Random scores, the baseline."""
    generator = np.random.default_rng(0)
    return {unit: float(generator.uniform()) for group in graph.groups for unit in group.units}


IMPORTANCES: dict[Importance, Callable[[nn.Module, ChannelGraph, Batches, Loss], Scores]] = {
    "l2": partial(norm, 2),
    "l1": partial(norm, 1),
    "bn_scale": bn_scale,
    "activation": activation,
    "taylor": taylor,
    "hessian": hessian,
    "random": random,
}


def weight_taylor(module: nn.Module, weights: Sequence[Tensor], batches: Batches, loss: Loss) -> list[Tensor]:
    """The squared first-order change of the loss when each individual weight is set to zero, summed over batches."""
    scores = [torch.zeros_like(w) for w in weights]
    for gradients in _gradients(module, weights, batches, loss):
        for score, weight, gradient in zip(scores, weights, gradients, strict=True):
            score += (weight.detach() * gradient) ** 2
    return scores


def _gradients(
    module: nn.Module, weights: Sequence[Tensor], batches: Batches, loss: Loss, *, create_graph: bool = False
) -> Iterator[list[Tensor]]:
    """Yield the gradients of each batch; zero for weights on which the loss does not depend."""
    for images, targets in batches():
        with SafeStrides():
            outputs = module(images)
        found = torch.autograd.grad(loss(module, outputs, targets), list(weights), allow_unused=True, create_graph=create_graph)
        yield [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _weights(module: nn.Module, graph: ChannelGraph) -> dict[Dim, Tensor]:
    """The weights of convolution and linear layers, by (parameter, dimension) in the graph."""
    parameters = dict(module.named_parameters())
    return {(n, d): parameters[n] for n, d in graph.classes if n in parameters and parameters[n].ndim > 1}


def _over_slices(values: Tensor, dim: int) -> Tensor:
    return values.transpose(0, dim).flatten(1).sum(1)


def _combine(graph: ChannelGraph, scores: Mapping[Dim, Floats]) -> Scores:
    """Average the scores of slices over the layers of each unit, with equal weight per layer, and divide by the mean of the group."""
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
