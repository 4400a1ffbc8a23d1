"""The time of a network's layers by the widths they may get: timed in the runtime on a coarse grid, interpolated between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.factor_layers import shape_of
from planish.compression.label_classes import Ints
from planish.compression.layer_moments import watching
from planish.compression.structure import ChannelGraph, Group
from planish.compression.width_choice import FIXED, Cost, Floats
from planish.evaluation.layer_latency import ConvShape, Pair, Precision, Variant

_TIMED = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a layer's width


@dataclass(frozen=True)
class _Call:
    """A layer as it runs once."""

    name: str
    shape: ConvShape
    size: Pair

    @property
    def depthwise(self) -> bool:
        return self.shape.groups > 1 and self.shape.groups == self.shape.in_channels

    def at(self, inputs: int, outputs: int, precision: Precision) -> Variant:
        """The same layer at other widths."""
        groups = self.shape.groups
        if self.depthwise:
            each = self.shape.out_channels // self.shape.in_channels
            inputs, outputs, groups = max(1, outputs // each), max(1, outputs // each) * each, max(1, outputs // each)
        elif groups > 1:
            inputs, outputs = (max(1, round(n / groups)) * groups for n in (inputs, outputs))
        return Variant((replace(self.shape, in_channels=inputs, out_channels=outputs, groups=groups),), self.size, inputs, precision)


def width_costs(
    module: nn.Module,
    example: Tensor,
    graph: ChannelGraph,
    decided: Sequence[Sequence[Group]],
    kept: Floats,
    precision: Precision,
    times: Callable[[Sequence[Variant]], Sequence[float]],
) -> list[Cost]:
    """What each layer costs, by the decisions on the channels it reads and makes.

    Where a layer's channels come under several decisions (concatenation), its time is the mean of what each would give alone, weighted by
    channels.

    Args:
        module: in eval mode.
        example: a normalised image ``(1, C, H, W)``.
        graph: of the module.
        decided: the groups of each decision.
        kept: ``(decisions, choices)``, the share of its channels that each choice keeps.
        precision: in which layers are timed.
        times: milliseconds of each variant of a layer.
    """
    decision_of = {unit: d for d, groups in enumerate(decided) for group in groups for unit in group.units}
    calls = _calls(module, example)
    grids = [([n] if c.depthwise else _grid(n), _grid(c.shape.out_channels)) for c in calls for n in (c.shape.in_channels,)]
    variants = [[c.at(i, o, precision) for i in inputs for o in outputs] for c, (inputs, outputs) in zip(calls, grids, strict=True)]
    found = iter(times([v for each in variants for v in each]))
    costs = []
    for call, (inputs, outputs) in zip(calls, grids, strict=True):
        ms = np.array([[next(found) for _ in outputs] for _ in inputs])
        reads, makes = (_shares(graph.classes.get((f"{call.name}.weight", dim)), decision_of) for dim in (1, 0))
        if call.depthwise:
            reads = {FIXED: 1.0}
        for a, share_a in reads.items():
            for b, share_b in makes.items():
                wide_in, wide_out = (
                    total * (np.ones(kept.shape[1]) if d == FIXED else kept[d])
                    for total, d in ((call.shape.in_channels, a), (call.shape.out_channels, b))
                )
                costs.append(Cost(a, b, share_a * share_b * _between(ms, inputs, outputs, wide_in, wide_out)))
    return costs


def _grid(width: int) -> list[int]:
    """Widths that are timed, whole multiples of 8 where there is room for them."""
    step = 8 if width >= 64 else 1
    return sorted({max(1, round(width * share / step) * step) for share in _TIMED} | {width})


def _between(ms: Floats, inputs: list[int], outputs: list[int], wide_in: Floats, wide_out: Floats) -> Floats:
    """Bilinear interpolation, ``(choices, choices)``."""
    rows = np.array([np.interp(wide_out, outputs, row) for row in ms])
    return np.array([np.interp(wide_in, inputs, column) for column in rows.T]).T


def _shares(classes: Ints | None, decision_of: dict[int, int]) -> dict[int, float]:
    """The share of a layer's channels under each decision."""
    if classes is None:
        return {FIXED: 1.0}
    found, counts = np.unique([decision_of.get(int(unit), FIXED) for unit in classes], return_counts=True)
    return {int(d): float(n) / len(classes) for d, n in zip(found, counts, strict=True)}


def _calls(module: nn.Module, example: Tensor) -> list[_Call]:
    """Every call of a convolution or linear layer, in order."""
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    found: list[_Call] = []

    def see(name: str, given: Tensor, output: Tensor) -> None:
        is_map = isinstance(layers[name], nn.Conv2d)
        found.append(_Call(name, shape_of(layers[name]), (given.shape[2], given.shape[3]) if is_map else (1, given[..., 0].numel())))

    with torch.no_grad(), watching(layers, see):
        module(example)
    return found
