"""Sensitivity of the outputs on calibration images to pruning, factorizing or quantizing one part of a network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.factorization.factor_choice import Factors, methods_for
from planish.compression.factorization.factor_layers import Form, Place, ranks_of, split
from planish.compression.factorization.factors import Method
from planish.compression.graph import structure as structures
from planish.compression.graph.structure import ChannelGraph
from planish.compression.graph.submodules import replace_submodule
from planish.compression.pruning.width_choice import Floats
from planish.compression.reconstruction.layer_moments import Moments, watching
from planish.compression.reconstruction.reconstruction import can_fit
from planish.deadline import seconds_left
from planish.decisions import decide
from planish.errors import TechniqueError
from planish.models.quantized import SMALLEST, ActivationQuantizer, fake_quantize
from planish.models.storage import fingerprint
from planish.progress import Stage

if TYPE_CHECKING:
    from planish.task import Task

_BATCH = 32
_MOST_IMAGES, _LEAST_IMAGES = 128, 16
_SECONDS, _SHARE = (
    20.0,
    0.3,
)  # approximate time limit of a measurement, in seconds and as a share of the time left; large networks use fewer images
_WIDEST = 2048  # input channels; estimating channels from each other would take too long in wider layers
_ROWS = 4096  # largest number of positions per batch used to estimate channel correlations
_SHARES = (0.25, 0.5)  # shares of a layer's full rank to try


def width_sensitivity(
    module: nn.Module, graph: ChannelGraph, cuts: Sequence[Sequence[Sequence[int]]], images: Tensor, task: Task
) -> Floats:
    """The sensitivity ``(decisions, widths)`` to each width: the divergence of the outputs from those of the unpruned network.

    Removed channels are compensated as in pruning, but cheaply: layers that read them estimate them from the remaining channels by least
    squares. Without this compensation, the sensitivity hardly predicts the loss of a pruned network after reconstruction.

    Args:
        module: the network, in eval mode.
        graph: the channel graph of the network.
        cuts: for each decision and width, the units to remove.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
    """
    # in narrow layers, neighbouring shares round to the same width
    masks = {(d, len(units)): units for d, widths in enumerate(cuts) for units in widths if units}
    divergence = _Divergence(module, images, task, len(masks))
    inputs = _input_moments(module, divergence.batches)
    moved = {(d, 0): 0.0 for d in range(len(cuts))}
    with Stage("measuring sensitivity of channels", len(masks)) as stage:
        for which, units in masks.items():
            moved[which] = divergence(_repaired(module, structures.masked(module, graph, units), graph, units, inputs))
            stage.advance()
    return np.array([[moved[d, len(units)] for units in widths] for d, widths in enumerate(cuts)])


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


def form_sensitivity(
    module: nn.Module, places: Mapping[str, Place], seen: Mapping[str, Moments], images: Tensor, task: Task
) -> dict[str, dict[Form, float]]:
    """The sensitivity to factorizing each layer, for each form that applies to it.

    Args:
        module: the network, in eval mode; restored afterwards.
        places: the layers that can be factorized.
        seen: the moments of these layers.
        images: normalised images ``(N, C, H, W)``.
        task: the task whose distillation loss measures the divergence.
    """
    tried = [(name, Form(m, share)) for name, place in places.items() for m in _methods(place) for share in _SHARES]
    divergence = _Divergence(module, images, task, len(tried))
    sensitivity: dict[str, dict[Form, float]] = {name: {} for name in places}
    with Stage("measuring sensitivity of ranks", len(tried)) as stage:
        for name, form in tried:
            layer = module.get_submodule(name)
            factors = Factors(form.method, ranks_of(form, places[name].shape))
            replace_submodule(module, name, split(layer, factors.method, factors.ranks, seen[name]))
            try:
                sensitivity[name][form] = divergence(module)
            except (AttributeError, TypeError, RuntimeError):  # the network's code accesses attributes of this layer
                sensitivity.pop(name, None)
            finally:
                replace_submodule(module, name, layer)
            stage.advance()
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
    divergence = _Divergence(module, images, task, len(layers))
    sensitivity = {}
    with Stage("measuring sensitivity to rounding", len(layers)) as stage:
        for name, layer in layers.items():
            weight = layer.weight.detach().clone()
            scale = (weight.flatten(1).abs().amax(1) / 127).clamp_min(SMALLEST)
            hook = layer.register_forward_pre_hook(lambda _, given: (_rounded(given[0]), *given[1:]))
            try:
                layer.weight.copy_(fake_quantize(weight, scale, torch.zeros_like(scale), -127, 127))
                sensitivity[name] = divergence(module)
            finally:
                layer.weight.copy_(weight)
                hook.remove()
            stage.advance()
    return sensitivity


def _rounded(values: Tensor) -> Tensor:
    """Fake-quantize values to 256 levels over their full range, which is extended to contain 0."""
    quantizer = ActivationQuantizer().to(values.device)
    quantizer.set_range(float(values.amin()), float(values.amax()))
    rounded: Tensor = quantizer(values)
    return rounded


def _methods(place: Place) -> list[Method]:
    return [m for m in methods_for("auto", place.shape) if place.shape.kernel == (1, 1) or m != "svd"]


class _Divergence:
    """Measures the divergence of a changed network's outputs from the original ones, on as many images as time allows."""

    @torch.no_grad()
    def __init__(self, module: nn.Module, images: Tensor, task: Task, count: int) -> None:
        def affordable() -> int:
            module(images[:_LEAST_IMAGES])
            begun = time.perf_counter()
            module(images[:_LEAST_IMAGES])
            images_in_time = min(_SECONDS, _SHARE * seconds_left()) / max(1, count) / (time.perf_counter() - begun) * _LEAST_IMAGES
            return min(len(images), int(np.clip(images_in_time, _LEAST_IMAGES, _MOST_IMAGES)))

        used = decide(f"sensitivity images:{fingerprint(module)[:16]}:{count}", affordable)
        self.batches = torch.split(images[:used], _BATCH)
        self.expected = [module(batch) for batch in self.batches]
        self.task = task

    @torch.no_grad()
    def __call__(self, changed: nn.Module) -> float:
        losses = [self.task.distillation_loss(changed, changed(x), y, 1.0).item() for x, y in zip(self.batches, self.expected, strict=True)]
        if not np.isfinite(losses).all():
            raise TechniqueError("the network's outputs are not finite", "sensitivity is measured on them", "train it again")
        return max(0.0, float(np.average(losses, weights=[len(x) for x in self.batches])))  # the last batch may be smaller
