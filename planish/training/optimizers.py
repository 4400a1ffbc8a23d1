"""Optimizers, and the groups of parameters with rates of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from planish.artifact import InputSpec
from planish.errors import ModelError, TrainingError
from planish.models.heads.stem_and_classifier import logits_layer
from planish.training.schedules.freezing import LayerFreezer
from planish.training.settings import FitSettings

_QUINTIC = (3.4445, -4.7750, 2.0315)  # its iteration moves singular values from 0.01 to 1 to about 1
_ITERATIONS = 5


def optimizer_of(module: nn.Module, spec: InputSpec, settings: FitSettings, freezer: LayerFreezer) -> Optimizer:
    """Build the optimizer; ``factor`` of each of its groups multiplies the learning rate of the schedule.

    Raises:
        TrainingError: no parameter requires gradients.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise TrainingError("no parameter of the network can be trained", "at least one needs requires_grad")
    # no weight decay for biases and parameters of normalisation layers
    biases = {layer.bias for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    matrices = _hidden_matrices(module, spec) if settings.optimizer == "muon" else {}

    def kind(p: nn.Parameter) -> tuple[float, float, int]:
        rate, matrix = freezer.rate_of(p), matrices.get(p, 0)
        if matrix:
            return 0.0, rate * settings.muon_rate / settings.learning_rate, matrix
        return settings.weight_decay if p.ndim > 1 else 0.0, rate * (settings.bias_rate if p in biases else 1.0), 0

    kinds = {p: kind(p) for p in trained}
    groups = [
        {"params": [p for p in trained if kinds[p] == each], "weight_decay": each[0], "factor": each[1], "matrices": each[2]}
        for each in dict.fromkeys(kinds.values())
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    sgd = Muon if settings.optimizer == "muon" else torch.optim.SGD
    return sgd(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)


class Muon(torch.optim.SGD):
    """SGD, with orthogonal updates of weight matrices.

    In groups with ``matrices`` other than 0 each weight is that many matrices of a row per output (one per group of a grouped convolution).
    The momentum of each is replaced by the nearest orthogonal matrix, found by five Newton-Schulz iterations, and scaled to the learning
    rate times the norm of the weight, which afterwards has the norm it had before: the learning rate is a relative change per step. It
    suits weights whose scale does not matter, as before batch norm. (Jordan 2024, https://kellerjordan.github.io/posts/muon/)
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have gradients."""
        turned = [group for group in self.param_groups if group["matrices"]]
        before = {}
        for group in turned:
            for weight in group["params"]:
                if weight.grad is not None:
                    before[weight], weight.grad = weight.grad, None
        result = super().step(closure)
        for group in turned:
            for weight in group["params"]:
                if weight in before:
                    weight.grad = before[weight]
                    self._turn(weight, group)
        return result

    def _turn(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        momentum = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        momentum.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalised(direction.reshape(group["matrices"], len(weight) // group["matrices"], -1)).reshape(weight.shape)
        norm = weight.norm() if weight.any() else update.norm()
        weight.sub_(update * (group["lr"] * norm / update.norm().clamp_min(1e-12)))
        weight.mul_(norm / weight.norm().clamp_min(1e-12))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Move all singular values of each matrix close to 1, by the Newton-Schulz iteration of Jordan 2024.

    Args:
        matrices: ``(N, rows, columns)``.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    found: Tensor = matrices if wide else matrices.mT
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found if wide else found.mT


def _hidden_matrices(module: nn.Module, spec: InputSpec) -> dict[nn.Parameter, int]:
    """Weights of convolutions and linear layers, except of the one that computes the logits, with their numbers of groups."""
    try:
        classifier, _ = logits_layer(module, spec.channels, (spec.height, spec.width))
    except ModelError:  # a detector or segmenter
        classifier = None
    return {
        layer.weight: getattr(layer, "groups", 1)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name != classifier and isinstance(layer.weight, nn.Parameter)
    }
