"""Initialisation of weights."""

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
_STD = 0.01  # of kinds that do not depend on the layer's size, as in AlexNet
_SATURATING = (nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Softsign)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Initialization:
    """Reinitialises the weights of all convolutions and linear layers. Biases become 0; normalisation layers get weight 1 and bias 0.

    The standard deviation is ``sqrt(2 / (fan_in + fan_out))`` for Glorot (Xavier); ``gain / sqrt(fan_in)`` for He (``fan_out`` for
    ``he_fan_out``), with the gain of the network's own activation, ``sqrt(2)`` for ReLU; ``sqrt(1 / fan_in)`` for LeCun. ``orthogonal``
    uses the gain of He. ``normal`` and ``uniform`` have a standard deviation of 0.01 in every layer. With ``zeros`` a network cannot learn,
    as all channels stay identical. ``matched`` chooses by the network's activation: Glorot for sigmoid and tanh, LeCun for SELU, He for
    the others.

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
        """Reinitialise the weights."""
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
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.reset_running_stats()
        return changed(artifact, self, module, {}, f"{count} layers are {kind}")


def main_activation(module: nn.Module) -> nn.Module:
    """The most frequent activation module of a network; ReLU if it has none."""
    found = [m for m in module.modules() if is_activation(m) or isinstance(m, _SATURATING)]
    if not found:
        return nn.ReLU()
    kind = Counter(type(m) for m in found).most_common(1)[0][0]
    return next(m for m in found if type(m) is kind)


@torch.no_grad()
def gain_of(activation: nn.Module) -> float:
    """The gain of an activation ``f``, which preserves the second moment of its input: ``1 / sqrt(E f(z)^2)`` for standard normal ``z``;
    ``sqrt(2)`` for ReLU (He et al. 2015).
    """
    z = torch.linspace(-8, 8, 16001)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    moved = activation(z.clone()).float()  # it may work in place
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
    """Fan-in and fan-out of a layer, with groups taken into account: 9 and 9 for a depthwise 3x3 convolution, not 9 and 9 C."""
    weight = layer.weight
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return weight[0].numel(), weight.shape[0] // groups * weight[0, 0].numel()


def draw(layer: nn.Conv2d | nn.Linear, kind: str, gain: float) -> None:
    """Draw a layer's weights from torch's global random state.

    Args:
        layer: the layer, changed in place; to be called under ``torch.no_grad``.
        kind: as in ``Initialization``, except ``matched``.
        gain: gain of the activation, see ``gain_of``.
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
    """Draw uniformly between ``-sqrt(3) * std`` and ``sqrt(3) * std``, so that the standard deviation is ``std``."""
    bound = math.sqrt(3) * std
    weight.uniform_(-bound, bound)
