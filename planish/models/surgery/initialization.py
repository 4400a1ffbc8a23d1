"""How weights begin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact
from planish.models.surgery.activation import is_activation
from planish.models.surgery.graph import LAYERS, changed, copied, drawing

if TYPE_CHECKING:
    from planish.task import Task

Kind = Literal[
    "zeros", "normal", "uniform", "xavier_normal", "xavier_uniform", "he_normal", "he_uniform", "he_fan_out", "lecun_normal", "orthogonal",
    "matched",
]  # fmt: skip
_STD = 0.01  # of what does not look at the layer's size: as AlexNet had it
_SATURATING = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Initialization:
    """Draws the weights of all convolutions and linear layers anew. Biases begin at 0, normalisations with factor 1 and offset 0.

    Glorot's (Xavier's) deviation is ``sqrt(2 / (fan_in + fan_out))``; He's is ``sqrt(2 / fan_in)`` for ReLU: the gain of the network's own
    activation over the root of ``fan_in`` (``fan_out`` for ``he_fan_out``); LeCun's ``sqrt(1 / fan_in)``. ``orthogonal`` has He's
    gain. ``normal`` and ``uniform`` have a deviation of 0.01 whatever the layer. ``zeros`` cannot learn: all channels stay alike.
    ``matched`` is what suits the network's activation: Glorot for sigmoid and tanh, LeCun for SELU, He for the others.

    Args:
        kind: the distribution.
        seed: seed of the random draw.

    Example:
        >>> print(Initialization("he_normal"))
        initialization he_normal
    """

    kind: Kind
    seed: int = 0

    name: ClassVar[str] = "initialization"
    reference: ClassVar[str] = (
        "Glorot and Bengio 2010 (AISTATS, Xavier); He et al. 2015, arXiv:1502.01852; LeCun et al. 1998 (Efficient BackProp); "
        "Saxe et al. 2014, arXiv:1312.6120 (orthogonal)"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    def __str__(self) -> str:
        return f"initialization {self.kind}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Draw."""
        module = copied(artifact)
        activation = main_activation(module)
        kind = _suiting(activation) if self.kind == "matched" else self.kind
        with drawing(self.seed), torch.no_grad():
            count, gain = 0, gain_of(activation)
            for layer in module.modules():
                if isinstance(layer, LAYERS):
                    draw(layer, kind, gain)
                    count += 1
                if isinstance(bias := getattr(layer, "bias", None), torch.Tensor):
                    bias.zero_()
                if _normalises(layer):
                    layer.weight.fill_(1)  # type: ignore[operator]
                if isinstance(layer, nn.BatchNorm2d):
                    layer.reset_running_stats()
        return changed(artifact, self, module, {}, f"{count} layers are {kind}")


def main_activation(module: nn.Module) -> nn.Module:
    """The activation that a network has most of; ReLU where it has none as modules."""
    found = [m for m in module.modules() if is_activation(m) or isinstance(m, _SATURATING)]
    if not found:
        return nn.ReLU()
    kind = Counter(type(m) for m in found).most_common(1)[0][0]
    return next(m for m in found if type(m) is kind)


@torch.no_grad()
def gain_of(activation: nn.Module) -> float:
    """The factor that keeps the second moment of what goes through it: ``1 / sqrt(E f(z)^2)`` for a standard normal ``z``; the root of 2
    for ReLU (He et al. 2015).
    """
    z = torch.linspace(-8, 8, 16001)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    moved = activation(z).float()
    return float(1 / torch.trapezoid(moved**2 * density, z).sqrt())


def _suiting(activation: nn.Module) -> str:
    if isinstance(activation, nn.SELU):
        return "lecun_normal"
    return "xavier_normal" if isinstance(activation, _SATURATING) else "he_normal"


def _normalises(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return (
        isinstance(weight, torch.Tensor) and weight.ndim == 1 and not isinstance(layer, nn.PReLU) and "norm" in type(layer).__name__.lower()
    )


def fans(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """How many values an output reads, and how many outputs read a value: 9 and 9 for a 3x3 kernel a channel, not 9 and 9 C."""
    weight = layer.weight
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight[0].numel(), weight.shape[0] // groups * weight[0, 0].numel()


def draw(layer: nn.Conv2d | nn.Linear, kind: str, gain: float) -> None:
    """Draw the layer's weights from torch's own random state.

    Args:
        layer: changed in place, under ``torch.no_grad``.
        kind: as in ``Initialization``, but for ``matched``.
        gain: of the activation, see ``gain_of``.
    """
    weight, (fan_in, fan_out) = layer.weight, fans(layer)
    match kind:
        case "zeros":
            weight.zero_()
        case "normal":
            weight.normal_(0, _STD)
        case "uniform":
            _uniform(weight, _STD)
        case "xavier_normal":
            weight.normal_(0, math.sqrt(2 / (fan_in + fan_out)))
        case "xavier_uniform":
            _uniform(weight, math.sqrt(2 / (fan_in + fan_out)))
        case "he_normal":
            weight.normal_(0, gain / math.sqrt(fan_in))
        case "he_uniform":
            _uniform(weight, gain / math.sqrt(fan_in))
        case "he_fan_out":
            weight.normal_(0, gain / math.sqrt(fan_out))
        case "lecun_normal":
            weight.normal_(0, math.sqrt(1 / fan_in))
        case _:
            nn.init.orthogonal_(weight, gain)


def _uniform(weight: torch.Tensor, std: float) -> None:
    """Evenly between plus and minus the root of 3 deviations."""
    bound = math.sqrt(3) * std
    weight.uniform_(-bound, bound)
