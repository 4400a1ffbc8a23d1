"""Structured channel pruning: whole channels are removed, which is faster in every runtime."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact, Step
from planish.compression.calibration import calibration_batches
from planish.compression.graph import structure as structures
from planish.compression.graph.structure import ChannelGraph, Group
from planish.compression.pruning.importance import Importance, unit_scores
from planish.compression.reconstruction.reconstruction import FIT_IMAGES, can_fit, reconstruct
from planish.errors import TechniqueError
from planish.evaluation.size import macs
from planish.progress import note
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

Ratio = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ChannelPruning:
    """Remove channels physically; the result is the same as if they had been set to zero.

    Channels tied by residual connections, concatenation, groups or shuffles are removed together. It is always verified that the outputs of
    the pruned network equal those of the masked one. Accuracy drops at first: fine-tune or distil afterwards.

    Args:
        pruning_ratio: share of the channels to remove, 0 to below 1. Parameters and MACs scale with about the square of the share kept.
        importance: how channels are ranked, see ``importance.IMPORTANCES``.
        scope: ``uniform`` removes the same share from every layer; ``global`` ranks all channels of the network together.
        round_to: widths become multiples of this, which vectorised kernels need; narrow layers use smaller multiples.
        recalibrate: fit the layers that read the pruned channels to their outputs before pruning, on calibration images, and re-estimate
            batch-norm statistics; this recovers much of the accuracy (see ``reconstruction``).
        pruning_ratios: ratios that override ``pruning_ratio`` for some groups of channels, by the first layer of each (``Group.name``).

    Example:
        >>> print(ChannelPruning(pruning_ratio=0.5))
        channels −50 %
    """

    pruning_ratio: Ratio
    importance: Importance = "l2"
    scope: Literal["uniform", "global"] = "uniform"
    round_to: int = Field(default=8, ge=1)
    recalibrate: bool = True
    pruning_ratios: Mapping[str, Ratio] = Field(default_factory=dict)

    name: ClassVar[str] = "channel_pruning"
    reference: ClassVar[str] = "Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = {"format": ("torch",), "precision": ("fp32",), "weights": ("dense", "sparse")}

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return f"channels −{100 * self.pruning_ratio:.0f} %" + (
            f", {len(self.pruning_ratios)} layers otherwise" if self.pruning_ratios else ""
        )

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Remove the least important channels.

        Raises:
            TechniqueError: the network has no channels that can be removed exactly.
        """
        spec, module = artifact.input_spec, copy.deepcopy(artifact.module).eval()
        device = next(module.parameters()).device
        module.cpu()
        batches = calibration_batches(artifact, task)
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(1, spec.channels, spec.height, spec.width, generator=generator)
        graph = structures.trace(module, example)
        if not graph.groups:
            raise TechniqueError(
                "no channel of this network can be removed exactly",
                "normalisation over channels, attention and standardised weights tie all channels together",
                "use a network with batch norm, or quantization instead",
            )
        scores = unit_scores(self.importance, module, graph, batches, task.loss)
        chosen = choose(graph, scores, self.pruning_ratio, self.scope, self.round_to, self.pruning_ratios)
        chosen, frozen = exact(module, graph, chosen, example)
        units = [unit for cut in chosen.values() for unit in cut]
        pruned = structures.prune(module, graph, units)
        structure = structures.structure_of(module, pruned, graph, units)
        if self.recalibrate and units and len(task.split("calibration")) > 1:
            sparse = artifact.facts["weights"] == "sparse"  # fitted weights are dense
            outputs = {} if sparse else left_outputs(module, graph, units)
            reconstruct(module, pruned, outputs, calibration_batches(artifact, task, FIT_IMAGES))
        pruned.to(device)
        notes = (
            f"parameters {_count(module):,} → {_count(pruned):,}, MACs {macs(module, spec).value:,.0f} → {macs(pruned, spec).value:,.0f}"
        )
        if frozen:
            layers = "; ".join(str(group) for group in frozen)
            note(f"channel pruning left {len(frozen)} groups as they are: their code has sizes written into it")
            notes += f". Not cut, as the network's code has their sizes written into it: {layers}"
        for before, after in zip(artifact.module.modules(), pruned.modules(), strict=True):
            after.training = before.training
        step = Step(self.name, hyper_parameters(self), self.changes, structure, notes)
        return artifact.with_step(step, module=pruned)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give a freshly built network the sizes of the pruned one; changes and returns ``module``."""
        return structures.rebuild(module, structure)


def choose(
    graph: ChannelGraph,
    scores: Mapping[int, float],
    ratio: float,
    scope: Literal["uniform", "global"],
    multiple: int,
    ratios: Mapping[str, float] | None = None,
) -> dict[Group, list[int]]:
    """Choose the units to remove from each group, least important first.

    Args:
        graph: the channel graph of the network.
        scores: the importance of each unit.
        ratio: ``pruning_ratio`` of ``ChannelPruning``.
        scope: as in ``ChannelPruning``.
        multiple: ``round_to`` of ``ChannelPruning``.
        ratios: ``pruning_ratios`` of ``ChannelPruning``.

    Raises:
        TechniqueError: a name in ``ratios`` is not that of a group.
    """
    names = {group.name for group in graph.groups}
    for unknown in sorted(set(ratios or {}) - names):
        near = difflib.get_close_matches(unknown, names, n=1)
        raise TechniqueError(
            f"no group of channels begins at {unknown!r}",
            f"groups that can be cut begin at {', '.join(sorted(names))}",
            f"did you mean {near[0]!r}?" if near else "",
        )
    if scope == "uniform":
        kept = {group: len(group.units) * (1 - ratio) for group in graph.groups}
    else:
        ranked = sorted((scores[unit], group.channels, unit) for group in graph.groups for unit in group.units)
        removed = np.cumsum([channels for _, channels, _ in ranked])
        gone = {unit for (_, _, unit), so_far in zip(ranked, removed, strict=True) if so_far <= ratio * removed[-1]}
        kept = {group: float(sum(unit not in gone for unit in group.units)) for group in graph.groups}
    kept |= {group: len(group.units) * (1 - ratios[group.name]) for group in graph.groups if ratios and group.name in ratios}
    return {
        group: sorted(group.units, key=scores.__getitem__)[: len(group.units) - _rounded(kept[group], group, multiple)]
        for group in graph.groups
    }


def _rounded(kept: float, group: Group, multiple: int) -> int:
    """Round ``kept`` so that the width is a multiple of ``multiple``, or of a half, a quarter, ... of it in narrow layers."""
    total = len(group.units)
    if kept >= total:
        return total
    while multiple > 1 and total * group.channels < 2 * multiple:
        multiple //= 2
    step = multiple // math.gcd(multiple, group.channels)
    return min(total, max(1, step * max(1, math.floor(kept / step + 0.5))))


def exact(
    module: nn.Module, graph: ChannelGraph, chosen: Mapping[Group, list[int]], example: Tensor, tolerance: float = 1e-5
) -> tuple[dict[Group, list[int]], list[Group]]:
    """Verify that the outputs of the pruned network equal those of the masked one; groups that violate this are found by bisection.

    Returns:
        The units to remove by group, and the groups that cannot be pruned exactly.

    Raises:
        TechniqueError: the outputs still differ without those groups.
    """

    def holds(groups: Iterable[Group]) -> bool:
        return structures.difference(module, graph, [u for g in groups for u in chosen[g]], example) <= tolerance

    def offending(groups: Sequence[Group]) -> list[Group]:
        if holds(groups):
            return []
        if len(groups) == 1:
            return list(groups)
        middle = len(groups) // 2
        return offending(groups[:middle]) + offending(groups[middle:])

    cut = [group for group in graph.groups if chosen[group]]
    frozen = offending(cut)
    left = {group: units for group, units in chosen.items() if units and group not in frozen}
    if frozen and not holds(left):
        raise TechniqueError(
            "the pruned network differs from the masked one, and no single layer is the cause",
            "pruning is exact or not done",
            "please report the network; quantization works without changing its shape",
        )
    return left, frozen


def left_outputs(module: nn.Module, graph: ChannelGraph, units: Sequence[int]) -> dict[str, Tensor]:
    """For each layer that reads removed channels and can be fitted: the indices of its output channels that remain."""
    cut = np.array(units)
    found = {}
    for name, layer in module.named_modules():
        read, made = (graph.classes.get((f"{name}.weight", dim)) for dim in (1, 0))
        if can_fit(layer) and read is not None and np.isin(read, cut).any():
            found[name] = torch.arange(len(layer.weight)) if made is None else torch.from_numpy(np.flatnonzero(~np.isin(made, cut)))
    return found


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
