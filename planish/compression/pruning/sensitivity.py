"""Sensitivity of the outputs on calibration images to pruning, factorizing or quantizing one part of a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.factorization.factor_choice import Factors, methods_for
from planish.compression.factorization.factor_layers import Form, Place, ranks_of, split
from planish.compression.graph import structure as structures
from planish.compression.graph.structure import ChannelGraph
from planish.compression.graph.submodules import replace_submodule
from planish.compression.pruning.divergence import Divergence, reads
from planish.compression.pruning.width_choice import Floats
from planish.compression.reconstruction.layer_moments import Moments, watching
from planish.compression.reconstruction.reconstruction import can_fit
from planish.models.quantized import SMALLEST, ActivationQuantizer, fake_quantize

if TYPE_CHECKING:
    from planish.task import Task

_MEASURED = (2 / 7, 5 / 7, 1.0)  # cuts of a layer that are measured, as shares of its largest; those between are interpolated
_JUMP = (
    30.0  # quotient of neighbouring errors above which a cut between them is measured as well: some units do nothing, or too few are left
)
_SMALLEST_ERROR = 1e-3  # relative to the largest error of a layer; smaller ones are not interpolated from
_WIDEST = 2048  # input channels; estimating channels from each other would take too long in wider layers
_ROWS = 4096  # largest number of positions per batch used to estimate channel correlations
_SHARES = (0.25, 0.5)  # shares of a layer's full rank to try


def width_sensitivity(
    module: nn.Module, graph: ChannelGraph, cuts: Sequence[Sequence[Sequence[int]]], images: Tensor, task: Task
) -> Floats:
    """The sensitivity ``(decisions, widths)`` to each width: the divergence of the outputs from those of the unpruned network.

    Removed channels are compensated as in pruning, but cheaply: layers that read them estimate them from the remaining channels by least
    squares. Without this compensation, the sensitivity hardly predicts the loss of a pruned network after reconstruction. Three widths of
    each decision are measured, and more where the divergence jumps. Elsewhere it grows about as a power of the number of removed units,
    by which it is interpolated.

    Args:
        module: the network, in eval mode.
        graph: the channel graph of the network.
        cuts: for each decision and width, the units to remove.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
    """
    # by their number, as in narrow layers neighbouring shares round to the same width
    masks = [{len(units): units for units in widths if units} for widths in cuts]
    changed = {d: _tensors_of(graph, units[max(units)]) for d, units in enumerate(masks) if units}
    divergence = Divergence(module, images, task, reads(changed), len(_MEASURED))
    inputs = _input_moments(module, divergence.batches)
    known: list[dict[int, float]] = [{} for _ in cuts]
    for decision in divergence.changes("measuring sensitivity of channels"):
        wanted = _measured(masks[decision])
        while wanted:
            for count in wanted:
                units = masks[decision][count]
                known[decision][count] = divergence(_repaired(module, structures.masked(module, graph, units), graph, units, inputs))
            wanted = _at_jumps(known[decision], masks[decision])
    return np.array([[_interpolated(errors, len(units)) for units in widths] for errors, widths in zip(known, cuts, strict=True)])


def _measured(counts: Collection[int]) -> list[int]:
    """Those of the numbers of removed units that are measured first."""
    return sorted({min(counts, key=lambda count: abs(count - share * max(counts))) for share in _MEASURED})


def _at_jumps(known: Mapping[int, float], counts: Collection[int]) -> list[int]:
    """Between neighbours whose errors are too far apart to interpolate, the middle one of the numbers that are not measured."""
    found = []
    for fewer, more in pairwise(sorted(known)):
        between = sorted(count for count in counts if fewer < count < more)
        if between and known[more] > _JUMP * known[fewer]:
            found.append(between[len(between) // 2])
    return found


def _interpolated(known: Mapping[int, float], count: int) -> float:
    """The error of removing ``count`` units, by the power law through its neighbours; ``count`` is at most the largest in ``known``."""
    if count in known or count == 0 or not any(known.values()):
        return known.get(count, 0.0)
    removed = sorted(known)
    x, y = np.log(removed), np.log(np.maximum([known[n] for n in removed], _SMALLEST_ERROR * max(known.values())))
    if count > removed[0]:
        return float(np.exp(np.interp(np.log(count), x, y)))
    exponent = np.clip((y[1] - y[0]) / (x[1] - x[0]), 1, 3) if len(x) > 1 else 1.0
    return float(np.exp(y[0] + exponent * (np.log(count) - x[0])))


def _tensors_of(graph: ChannelGraph, units: Sequence[int]) -> set[str]:
    """The parameters and buffers in which these units have slices."""
    return {name for (name, _), classes in graph.classes.items() if np.isin(classes, units).any()}


@torch.no_grad()
def _input_moments(module: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """The mean products ``(in, in)`` of the input channels of each layer that can be fitted, float64, with a ridge to be invertible."""
    layers = {name: layer for name, layer in module.named_modules() if can_fit(layer) and layer.weight.shape[1] <= _WIDEST}
    sums: dict[str, Tensor] = {}
    rows: dict[str, int] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, given: Tensor, _: Tensor) -> None:
        flat = given.flatten(2).transpose(1, 2).flatten(0, 1) if given.dim() == 4 else given.reshape(-1, given.shape[-1])
        if len(flat) > _ROWS:  # at random: every n-th would be the same columns of each row, in wide maps the first alone
            flat = flat[torch.randint(len(flat), (_ROWS,), generator=generator)]
        sums[name] = sums.get(name, 0) + (flat.T @ flat).double()
        rows[name] = rows.get(name, 0) + len(flat)

    with watching(layers, see):
        for batch in batches:
            module(batch)
    for total in sums.values():
        total.diagonal().add_(1e-3 * total.diagonal().mean().clamp_min(1e-12))
    return {name: total / rows[name] for name, total in sums.items()}


@torch.no_grad()
def _repaired(whole: nn.Module, masked: nn.Module, graph: ChannelGraph, units: Sequence[int], inputs: Mapping[str, Tensor]) -> nn.Module:
    """Change the weights of ``masked`` in place so that each removed channel is replaced by its least-squares estimate from the others."""
    for name, products in inputs.items():
        classes = graph.classes.get((f"{name}.weight", 1))
        if classes is None or len(classes) != len(products):
            continue
        gone = torch.from_numpy(np.isin(classes, units))
        if not gone.any() or gone.all():
            continue
        estimate = torch.linalg.solve(products[~gone][:, ~gone], products[~gone][:, gone]).float()
        before, weight = cast(Tensor, whole.get_submodule(name).weight), cast(Tensor, masked.get_submodule(name).weight)
        made = torch.einsum("or...,kr->ok...", before[:, gone], estimate)
        outputs_gone = np.flatnonzero(np.isin(graph.classes.get((f"{name}.weight", 0), ()), units))
        made[torch.from_numpy(outputs_gone)] = 0
        weight[:, ~gone] += made
    return masked


def forms_of(place: Place) -> list[Form]:
    """The factorizations of a layer that are tried."""
    methods = [m for m in methods_for("auto", place.shape) if place.shape.kernel == (1, 1) or m != "svd"]
    return [Form(method, share) for method in methods for share in _SHARES]


def form_sensitivity(
    module: nn.Module,
    places: Mapping[str, Place],
    forms: Mapping[str, Sequence[Form]],
    seen: Mapping[str, Moments],
    images: Tensor,
    task: Task,
) -> dict[str, dict[Form, float]]:
    """The sensitivity to factorizing each layer in each of its forms.

    Args:
        module: the network, in eval mode; restored afterwards.
        places: the layers that can be factorized.
        forms: the factorizations to measure, by layer.
        seen: the moments of these layers.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
    """
    tried = {(name, form): [f"{name}.weight"] for name, some in forms.items() for form in some}
    divergence = Divergence(module, images, task, reads(tried))
    sensitivity: dict[str, dict[Form, float]] = {name: {} for name in forms}
    for name, form in divergence.changes("measuring sensitivity of ranks"):
        layer = module.get_submodule(name)
        factors = Factors(form.method, ranks_of(form, places[name].shape))
        replace_submodule(module, name, split(layer, factors.method, factors.ranks, seen[name]))
        try:
            sensitivity[name][form] = divergence(module)
        except (AttributeError, TypeError, RuntimeError):  # the network's code accesses attributes of this layer
            sensitivity.pop(name, None)
        finally:
            replace_submodule(module, name, layer)
    return sensitivity


@torch.no_grad()
def rounding_sensitivity(module: nn.Module, images: Tensor, task: Task) -> dict[str, float]:
    """The sensitivity to quantizing each convolution or linear layer to 8 bits: weights with one scale per output channel, inputs with one.

    Args:
        module: the network, in eval mode; restored afterwards.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    divergence = Divergence(module, images, task, reads({name: [f"{name}.weight"] for name in layers}))
    sensitivity = {}
    for name in divergence.changes("measuring sensitivity to rounding"):
        layer = layers[name]
        weight = layer.weight.detach().clone()
        scale = (weight.flatten(1).abs().amax(1) / 127).clamp_min(SMALLEST)
        hook = layer.register_forward_pre_hook(lambda _, given: (_rounded(given[0]), *given[1:]))
        try:
            layer.weight.copy_(fake_quantize(weight, scale, torch.zeros_like(scale), -127, 127))
            sensitivity[name] = divergence(module)
        finally:
            layer.weight.copy_(weight)
            hook.remove()
    return sensitivity


def _rounded(values: Tensor) -> Tensor:
    """Fake-quantize values to 256 levels over their full range, which is extended to contain 0."""
    quantizer = ActivationQuantizer().to(values.device)
    quantizer.set_range(float(values.amin()), float(values.amax()))
    rounded: Tensor = quantizer(values)
    return rounded
