"""Iterative pruning: pruning in several rounds with distillation in between."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from planish.artifact import Artifact, Step
from planish.compression.graph.structure import trace
from planish.compression.pruning.channel_pruning import ChannelPruning
from planish.compression.pruning.unstructured_pruning import UnstructuredPruning
from planish.technique import hyper_parameters
from planish.training.distillation.distill import Distill

if TYPE_CHECKING:
    from planish.task import Task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class IterativePruning:
    """Prune in rounds, each followed by distillation, until the ratio or sparsity of ``pruning`` is reached.

    After round k of n, the share ``final * (1 - (1 - k / n) ** 3)`` has been pruned: early rounds, when the network has more redundancy,
    prune the most.

    Args:
        pruning: channel or unstructured pruning with all its fields, for example ``{pruning_ratio: 0.5}`` or ``{sparsity: 0.9}``.
        rounds: number of rounds, at least 2.
        distill: the distillation after each round.

    Example:
        >>> print(IterativePruning(pruning=UnstructuredPruning(sparsity=0.9), rounds=4))
        90 % zeros in 4 rounds, each distilled 1 epoch
    """

    pruning: ChannelPruning | UnstructuredPruning
    rounds: int = Field(default=4, ge=2)
    distill: Distill = Field(default_factory=lambda: Distill(epochs=1))

    name: ClassVar[str] = "iterative_pruning"
    reference: ClassVar[str] = "Zhu & Gupta 2017, To prune, or not to prune, arXiv:1710.01878"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = ChannelPruning.requires

    @property
    def changes(self) -> dict[str, str]:
        return self.pruning.changes

    def __str__(self) -> str:
        return f"{self.pruning} in {self.rounds} rounds, each {self.distill}"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Prune and distil in turn.

        Raises:
            TechniqueError: the network cannot be pruned in this way.
            TrainingError: training failed.
        """
        current, started = artifact, self._widths(artifact)
        for k in range(1, self.rounds + 1):
            step = self._step(k, started, started if k == 1 else self._widths(current))
            current = self.distill.apply(step.apply(current, task), task)
        done = current.lineage.steps[len(artifact.lineage.steps) :]
        rounds = [step.structure for step in done if step.technique == self.pruning.name]
        notes = "; ".join(step.notes for step in done)
        params = hyper_parameters(self)
        return artifact.with_step(Step(self.name, params, self.changes, {"rounds": rounds}, notes), module=current.module)

    def _widths(self, artifact: Artifact) -> dict[str, int]:
        """The channels of each group that can be removed, by its name; empty for unstructured pruning."""
        if isinstance(self.pruning, UnstructuredPruning):
            return {}
        spec, module = artifact.input_spec, copy.deepcopy(artifact.module).cpu().eval()
        widths: dict[str, int] = {}
        for group in trace(module, torch.zeros(1, spec.channels, spec.height, spec.width)).groups:
            widths[group.name] = widths.get(group.name, 0) + len(group.units) * group.channels
        return widths

    def _step(self, k: int, started: Mapping[str, int], now: Mapping[str, int]) -> ChannelPruning | UnstructuredPruning:
        """The pruning of round ``k``, from 1.

        Channels are pruned to shares of the original widths, whatever rounding has left: every round rounds, since a last round that alone
        did so could not widen a layer to the next multiple. Groups of which one unit is left are not pruned further.
        """
        share = 1 - (1 - k / self.rounds) ** 3
        if isinstance(self.pruning, UnstructuredPruning):
            return replace(self.pruning, sparsity=self.pruning.sparsity * share)
        pruning = self.pruning

        def of_what_is_left(final: float, *names: str) -> float:
            before, left = (sum(widths.get(name, 1) for name in names) for widths in (started, now))
            return max(0.0, 1 - (1 - final * share) * before / max(left, 1))

        named = [name for name in pruning.pruning_ratios if name in now or name not in started]  # ChannelPruning refuses unknown ones
        names = [*named, *(name for name in now if name not in named)] if pruning.scope == "uniform" else named
        return replace(
            pruning,
            pruning_ratio=of_what_is_left(pruning.pruning_ratio, *now),
            pruning_ratios={name: of_what_is_left(pruning.pruning_ratios.get(name, pruning.pruning_ratio), name) for name in names},
        )

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give a freshly built network the sizes of the pruned one; changes and returns ``module``."""
        for round_ in structure["rounds"]:
            if round_:
                module = ChannelPruning.rebuild(module, round_)
        return module
