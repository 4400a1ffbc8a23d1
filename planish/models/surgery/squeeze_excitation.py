"""Adding or removing squeeze-and-excitation blocks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torchvision.ops import SqueezeExcitation as Squeeze

from planish.artifact import Artifact
from planish.errors import TechniqueError
from planish.models.surgery.graph import changed, copied, drawing, insert_after, output_shapes, replaced, residual_branches

if TYPE_CHECKING:
    from planish.task import Task

_NAMES = ("SqueezeExcitation", "SqueezeExcite", "SEModule", "EffectiveSEModule", "SqueezeExciteCl")
_LEAST = 4  # minimum number of channels between the block's two layers


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SqueezeExcitation:
    """Adds squeeze-and-excitation blocks, which scale each channel by a gate that two small layers compute from the channel means.

    They are added at the end of every residual branch or, in a network without shortcuts, before every pooling. ``reduction=0`` removes
    existing blocks.

    Args:
        reduction: factor by which the number of channels is reduced between the two layers.
        seed: seed of their initial weights.
    """

    reduction: int = Field(default=16, ge=0)
    seed: int = 0

    name: ClassVar[str] = "squeeze_excitation"
    reference: ClassVar[str] = "Hu et al. 2018, arXiv:1709.01507"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",)}

    def __str__(self) -> str:
        return f"squeeze-and-excitation /{self.reduction}" if self.reduction else "no squeeze-and-excitation"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Add or remove the blocks.

        Raises:
            TechniqueError: the network already has such blocks, has none to remove, or has no place to add them.
        """
        module, name = copied(artifact), artifact.lineage.source.name
        there = sum(_is_squeeze(m) for m in module.modules())
        if self.reduction == 0:
            if not there:
                raise TechniqueError(f"{name} has no squeeze-and-excitation", "reduction=0 takes it out")
            return changed(artifact, self, self.rebuild(module, {"reduction": 0}), {"reduction": 0}, f"{there} taken out")
        if there:
            raise TechniqueError(
                f"{name} has {there} squeeze-and-excitation blocks", "it is put into networks without", "reduction=0 takes them out"
            )
        places = residual_branches(module) or _before_pooling(module)
        if not places:
            raise TechniqueError(f"{name} has no residual branch and no pooling", "it is put where one ends")
        shapes = output_shapes(module, artifact.input_spec)
        structure = {"reduction": self.reduction, "at": {place: shapes[place][1] for place in places}}
        with drawing(self.seed):
            module = self.rebuild(module, structure)
        return changed(artifact, self, module, structure, f"put behind {len(places)} layers")

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Repeat the change on a newly built network, before its weights are loaded."""
        if structure["reduction"] == 0:
            replaced(module, _is_squeeze, lambda _: nn.Identity())
            return module
        for name, channels in structure["at"].items():
            insert_after(module, name, Squeeze(channels, max(_LEAST, channels // structure["reduction"])))
        return module


def _is_squeeze(module: nn.Module) -> bool:
    return type(module).__name__ in _NAMES


def _before_pooling(module: nn.Module) -> list[str]:
    """Names of the layers that directly precede a pooling in an ``nn.Sequential``, usually activations."""
    places = []
    for prefix, chain in module.named_modules():
        if isinstance(chain, nn.Sequential):
            layers = list(chain.named_children())
            places += [
                f"{prefix}.{name}".lstrip(".")
                for (name, _), (_, following) in itertools.pairwise(layers)
                if isinstance(following, nn.MaxPool2d | nn.AvgPool2d)
            ]
    return places
