"""Scaling of the number of channels of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact
from planish.compression.graph import structure as structures
from planish.errors import TechniqueError
from planish.models.surgery.graph import LAYERS, changed, copied, drawing
from planish.models.surgery.initialization import draw, gain_of, main_activation

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Width:
    """Multiply the number of channels of every layer. Layers whose shape changes are initialised anew (He initialisation); channels tied
    by shortcuts, concatenation, groups or shuffles stay tied. To make a *trained* network narrower, use ``ChannelPruning``.

    Args:
        multiplier: factor on the number of channels; 2.0 for twice as many.
        round_to: widths of at least twice this value become multiples of it, which vectorised kernels need.
        seed: seed of the newly initialised weights.

    Example:
        >>> print(Width(0.5))
        width ×0.5
    """

    multiplier: float = Field(gt=0, le=16)
    round_to: int = Field(default=8, ge=1)
    seed: int = 0

    name: ClassVar[str] = "width"
    reference: ClassVar[str] = "Zagoruyko and Komodakis 2016, Wide Residual Networks, arXiv:1605.07146"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense",)}

    def __str__(self) -> str:
        return f"width ×{self.multiplier:g}"

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Change the width of the layers.

        Raises:
            TechniqueError: no layer's width can be changed, or none changes.
        """
        spec, module = artifact.input_spec, copied(artifact)
        device = next(module.parameters()).device
        graph = structures.trace(module, torch.zeros(1, spec.channels, spec.height, spec.width, device=device))
        times: dict[int, int] = {}
        for group in graph.groups:
            times |= self._times(group)
        if not any(count != 1 for count in times.values()):
            raise TechniqueError(
                f"{self} changes no layer of {artifact.lineage.source.name}", "widths are whole numbers of channels", "go farther from 1"
            )
        wider = structures.repeated(module, graph, times)
        shapes = {name: p.shape for name, p in module.named_parameters()}
        gain = gain_of(main_activation(module))
        with drawing(self.seed), torch.no_grad():
            for name, layer in wider.named_modules():
                if isinstance(layer, LAYERS) and layer.weight.shape != shapes[f"{name}.weight"]:
                    draw(layer, "he_normal", gain)
        before, after = (sum(p.numel() for p in m.parameters()) for m in (module, wider))
        structure = structures.difference_of(module, wider, graph, times)
        return changed(artifact, self, wider, structure, f"{before:,} parameters became {after:,}")

    def _times(self, group: structures.Group) -> dict[int, int]:
        """The number of copies of each unit, as even as the new width allows."""
        count = len(group.units)
        multiple = max(1, self.round_to // group.channels)
        wanted = count * self.multiplier
        width = round(wanted / multiple) * multiple if wanted >= 2 * multiple else round(wanted)
        width = max(1, width)
        return {unit: (i + 1) * width // count - i * width // count for i, unit in enumerate(group.units)}

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give a freshly built network the same widths; changes and returns ``module``."""
        return structures.rebuild(module, structure, may_grow=True)
