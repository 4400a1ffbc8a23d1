"""Replacement of a network's normalisation layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.surgery.graph import changed, copied, replaced

if TYPE_CHECKING:
    from planish.task import Task

_GAIN = 2 / (1 - 1 / math.pi)
Kind = Literal["batch", "group", "layer", "instance", "standardised", "none"]


class Affine(nn.Module):
    """A learned weight and bias per channel: what remains of a removed normalisation layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class StandardisedConv2d(nn.Conv2d):
    """A convolution with standardised weights: mean 0 in each output channel, scaled so that the outputs have variance 1 if the inputs are
    standard normal values after a ReLU (whose variance is ``(1 - 1 / pi) / 2``).
    """

    def forward(self, x: Tensor) -> Tensor:
        axes = (1, 2, 3)
        fan_in = self.weight[0].numel()
        centred = self.weight - self.weight.mean(axes, keepdim=True)
        deviation = centred.square().mean(axes, keepdim=True).add(1e-6).sqrt()
        out: Tensor = self._conv_forward(x, centred / deviation * math.sqrt(_GAIN / fan_in), self.bias)
        return out


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Norm:
    """Replaces all batch norms (and other normalisations of feature maps) of a network by one kind of normalisation.

    Learned weights and biases are kept; ``none`` keeps only these. So does ``standardised``, which standardises the weights of the
    convolutions instead (Qiao et al. 2019, arXiv:1903.10520, scaled as in Brock et al. 2021, arXiv:2101.08692). ``layer`` normalises over
    the channels and pixels of an image, ``instance`` over the pixels of each channel. ``batch`` leaves batch norms as they are.

    Args:
        kind: the new normalisation.
        groups: maximum number of groups for ``group``; each layer uses the largest number up to it that divides its channels.

    Example:
        >>> print(Norm("group", groups=16))
        norm group (16)
    """

    kind: Kind
    groups: int = Field(default=32, ge=1)

    name: ClassVar[str] = "norm"
    reference: ClassVar[str] = (
        "Ioffe and Szegedy 2015, arXiv:1502.03167 (batch); Wu and He 2018, arXiv:1803.08494 (group); Ba et al. 2016, arXiv:1607.06450 "
        "(layer); Ulyanov et al. 2016, arXiv:1607.08022 (instance)"
    )
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"norm {self.kind}" + (f" ({self.groups})" if self.kind == "group" else "")

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Replace the normalisation layers.

        Raises:
            TechniqueError: the network has none.
        """
        module = copied(artifact)
        if not (count := _swap(module, self.kind, self.groups)):
            raise TechniqueError(
                f"{artifact.lineage.source.name} has no normalisation over channels",
                "this modification replaces batch, group and instance norm, and the layer norm of maps (N, C, H, W)",
                "take a network with them: vgg11_bn in place of vgg11",
            )
        return changed(artifact, self, module, {"kind": self.kind, "groups": self.groups}, f"{count} normalisations are {self}")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        _swap(module, structure["kind"], structure["groups"])
        return module


def _swap(module: nn.Module, kind: Kind, groups: int) -> int:
    count = replaced(module, _is_norm, lambda norm: _made(norm, kind, groups))
    if kind == "standardised" and count:
        for layer in module.modules():
            if type(layer) is nn.Conv2d and layer.weight[0].numel() > 1:
                layer.__class__ = StandardisedConv2d
    return count


def _is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalisation layer for feature maps ``(N, C, H, W)``, or an ``Affine``."""
    maps = type(module).__name__ in ("LayerNorm2d", "LayerNormAct2d", "FrozenBatchNorm2d")
    return maps or isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d | Affine)


def _made(old: nn.Module, kind: Kind, groups: int) -> nn.Module:
    count = _channels(old)
    new: nn.Module
    match kind:
        case "batch":
            new = nn.BatchNorm2d(count, getattr(old, "eps", 1e-5))
        case "group":
            new = nn.GroupNorm(max(g for g in range(1, groups + 1) if count % g == 0), count)
        case "layer":
            new = nn.GroupNorm(1, count)
        case "instance":
            new = nn.InstanceNorm2d(count, affine=True)
        case _:
            new = Affine(count)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(value := getattr(old, name, None), Tensor) and getattr(new, name, None) is not None:
                getattr(new, name).copy_(value)
    # timm's norm layers include dropout and an activation
    behind = [m for n in ("drop", "act") if isinstance(m := getattr(old, n, None), nn.Module) and not isinstance(m, nn.Identity)]
    return nn.Sequential(new, *behind) if behind else new


def _channels(norm: nn.Module) -> int:
    for name in ("num_features", "num_channels"):
        if isinstance(value := getattr(norm, name, None), int):
            return value
    return int(norm.weight.numel())  # type: ignore[operator]
