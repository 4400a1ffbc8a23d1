"""Channel pruning to a speed: each layer's width chosen by measured time and measured harm."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from planish.artifact import Artifact, Step
from planish.compression import structure as structures
from planish.compression.calibration import calibration_batches
from planish.compression.channel_pruning import ChannelPruning, choose
from planish.compression.importance import Importance, unit_scores
from planish.compression.structure import ChannelGraph, Group
from planish.compression.width_choice import Floats, least_error, time_of
from planish.compression.width_costs import width_costs
from planish.errors import TechniqueError
from planish.evaluation.layer_latency import Precision, Variant, layer_latencies
from planish.models.storage import fingerprint
from planish.progress import Stage
from planish.technique import hyper_parameters

if TYPE_CHECKING:
    from planish.task import Task

_KEPT = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)  # shares of a layer's channels that are choices, the whole first
_BATCH = 32
_MOST_IMAGES, _LEAST_IMAGES = 128, 16
_SECONDS = 60.0  # to weigh channels in, about: large networks are shown fewer images


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LatencyPruning:
    """Remove channels until the layers are ``speedup`` times as fast in the runtime, from where it harms least.

    How much each layer's channels matter is measured by masking them on calibration images (how far the outputs move), what each width
    costs by timing layers in the runtime; an integer program chooses all widths together. Distil afterwards.

    Args:
        speedup: of the sum of the layers' times. A whole network has other work too, so that it gains somewhat less.
        runtime: where layers are timed.
        precision: in which they are timed: ``int8`` where the plan goes on to it.
        threads: that the runtime may use.
        batch: images a call.
        importance: which of a layer's channels go first, see ``importance.IMPORTANCES``.
        multiple: widths become multiples of this.

    Example:
        >>> print(LatencyPruning(speedup=2))
        channels pruned for 2x
    """

    speedup: float = Field(gt=1)
    runtime: str = "onnxruntime"
    precision: Precision = "fp32"
    threads: int = Field(default=1, ge=1)
    batch: int = Field(default=1, ge=1)
    importance: Importance = "l2"
    multiple: int = Field(default=8, ge=1)

    name: ClassVar[str] = "latency_pruning"
    reference: ClassVar[str] = "Yang et al. 2018, NetAdapt, arXiv:1804.03230; Shen et al. 2021, HALP, arXiv:2110.10811"
    requires: ClassVar[Mapping[str, tuple[str, ...]]] = ChannelPruning.requires

    @property
    def changes(self) -> dict[str, str]:
        return {}

    def __str__(self) -> str:
        return f"channels pruned for {self.speedup:g}x"

    def apply(self, artifact: Artifact, task: Task) -> Artifact:
        """Choose the widths, and prune.

        Raises:
            TechniqueError: nothing can be cut, or not by so much.
        """
        spec, module = artifact.input_spec, copy.deepcopy(artifact.module).cpu().eval()
        batches = calibration_batches(artifact, task, _MOST_IMAGES)
        example = torch.randn(1, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
        graph = structures.trace(module, example)
        decided = _decisions(graph)
        if not decided:
            raise TechniqueError(
                "no channel of this network can be removed exactly",
                "widths are what this technique chooses",
                "use a network with batch norm, or quantization instead",
            )
        scores = unit_scores(self.importance, module, graph, batches, task.loss)
        cuts = [choose(graph, scores, 1 - share, "uniform", self.multiple) for share in _KEPT]
        images = torch.cat([images for images, _ in batches()])
        shown = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        known = _known_errors(fingerprint(module), shown, self.importance, self.multiple)
        if not known:  # other speeds of one network need the same
            known.append(_errors(module, graph, decided, cuts, images, task))
        errors = known[0]
        kept = np.array([[1 - _share_cut(groups, cut) for cut in cuts] for groups in decided.values()])
        costs = width_costs(module, example, graph, list(decided.values()), kept, self.precision, self._times)
        whole = time_of(costs, [0] * len(decided))
        choices = least_error(errors, costs, whole / self.speedup)
        if choices is None:
            fastest = time_of(costs, [len(_KEPT) - 1] * len(decided))
            raise TechniqueError(
                f"pruning can make the layers {whole / fastest:.1f}x as fast, not {self.speedup:g}x",
                f"every layer keeps {100 * _KEPT[-1]:g} % of its channels",
                f"ask for speedup {0.95 * whole / fastest:.1f} or less, and combine it with a smaller input or INT8",
            )
        ratios = {name: 1 - _KEPT[k] for name, k in zip(decided, choices, strict=True)}
        pruned = ChannelPruning(ratio=0, importance=self.importance, multiple=self.multiple, ratios=ratios).apply(artifact, task)
        cut = pruned.lineage.steps[-1]
        expected = f"layers timed in {self.runtime} ({self.precision}): {whole:.3g} → {time_of(costs, choices):.3g} ms together"
        shares = ", ".join(f"{name} {100 * (1 - ratio):g} %" for name, ratio in ratios.items())
        params = hyper_parameters(self)
        step = Step(self.name, params, self.changes, cut.structure, f"{expected}; {cut.notes}; kept: {shares}")
        return artifact.with_step(step, module=pruned.module)

    def _times(self, variants: Sequence[Variant]) -> list[float]:
        return layer_latencies(variants, self.runtime, threads=self.threads, batch=self.batch)

    @staticmethod
    def rebuild(module: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Give a freshly built network the sizes of the pruned one; changes and returns ``module``."""
        return structures.rebuild(module, structure)


def _decisions(graph: ChannelGraph) -> dict[str, list[Group]]:
    """Groups by the name that ``ChannelPruning.ratios`` knows them by; those of one name are cut alike."""
    decided: dict[str, list[Group]] = {}
    for group in graph.groups:
        if group.name:
            decided.setdefault(group.name, []).append(group)
    return decided


def _share_cut(groups: Sequence[Group], cut: Mapping[Group, Sequence[int]]) -> float:
    return len(_units(groups, cut)) / sum(len(g.units) for g in groups)


@lru_cache(maxsize=2)
def _known_errors(network: str, images: str, importance: str, multiple: int) -> list[Floats]:
    """Holds what ``_errors`` found for that network on those images in this process, once it has."""
    return []


@torch.no_grad()
def _errors(
    module: nn.Module,
    graph: ChannelGraph,
    decided: Mapping[str, Sequence[Group]],
    cuts: Sequence[Mapping[Group, list[int]]],
    images: Tensor,
    task: Task,
) -> Floats:
    """How far the outputs move when one decision takes one of its widths and all others stay whole, ``(decisions, widths)``."""
    # neighbouring shares of a narrow layer round to one width
    masks = {(d, len(units)): units for d, groups in enumerate(decided.values()) for cut in cuts if (units := _units(groups, cut))}
    module(images[:_LEAST_IMAGES])
    begun = time.perf_counter()
    module(images[:_LEAST_IMAGES])
    affordable = _SECONDS / max(1, len(masks)) / (time.perf_counter() - begun) * _LEAST_IMAGES
    batches = torch.split(images[: int(np.clip(affordable, _LEAST_IMAGES, _MOST_IMAGES))], _BATCH)
    expected = [module(batch) for batch in batches]
    moved = {(d, 0): 0.0 for d in range(len(decided))}
    with Stage("weighing channels", len(masks)) as stage:
        for which, units in masks.items():
            masked = structures.masked(module, graph, units)
            losses = [task.distillation_loss(masked(x), y, 1.0).item() for x, y in zip(batches, expected, strict=True)]
            if not np.isfinite(losses).all():
                raise TechniqueError("the network's outputs are not finite", "channels are weighed by them", "train it again")
            moved[which] = max(0.0, float(np.mean(losses)))
            stage.advance()
    return np.array([[moved[d, len(_units(groups, cut))] for cut in cuts] for d, groups in enumerate(decided.values())])


def _units(groups: Sequence[Group], cut: Mapping[Group, Sequence[int]]) -> list[int]:
    return [unit for group in groups for unit in cut[group]]
