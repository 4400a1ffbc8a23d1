"""The time of a network's layers by the widths and forms they may get: timed in the runtime on a coarse grid, interpolated between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.factor_layers import Form, chain, ranks_of, shape_of
from planish.compression.label_classes import Ints
from planish.compression.layer_moments import watching
from planish.compression.structure import ChannelGraph, Group
from planish.compression.width_choice import FIXED, Cost, Floats
from planish.evaluation.latency import SMALLEST_DIFFERENCE
from planish.evaluation.layer_latency import ConvShape, Pair, Precision, Variant

_TIMED = (0.125, 0.25, 0.5, 0.75, 1.0)  # of a layer's width
_TIMED_SPLIT = (0.25, 0.5, 1.0)  # the same where it is split

Times = Callable[[Sequence[Variant]], Sequence[float]]


@dataclass(frozen=True)
class _Call:
    """A layer as it runs once."""

    name: str
    shape: ConvShape
    size: Pair

    @property
    def depthwise(self) -> bool:
        return self.shape.groups > 1 and self.shape.groups == self.shape.in_channels

    def at(self, inputs: int, outputs: int, precision: Precision, form: Form | None = None) -> Variant:
        """The same layer at other widths, whole or split."""
        groups = self.shape.groups
        if self.depthwise:
            each = self.shape.out_channels // self.shape.in_channels
            inputs, outputs, groups = max(1, outputs // each), max(1, outputs // each) * each, max(1, outputs // each)
        elif groups > 1:
            inputs, outputs = (max(1, round(n / groups)) * groups for n in (inputs, outputs))
        shape = replace(self.shape, in_channels=inputs, out_channels=outputs, groups=groups)
        layers = (shape,) if form is None else chain(shape, form.method, ranks_of(form, shape))
        return Variant(layers, self.size, inputs, precision)


def width_costs(
    module: nn.Module,
    example: Tensor,
    graph: ChannelGraph,
    decided: Sequence[Sequence[Group]],
    kept: Floats,
    precision: Precision,
    times: Times,
    forms: Mapping[str, Mapping[Form, float]] | None = None,
) -> tuple[list[Cost], list[tuple[str, list[Form | None]]]]:
    """What each layer costs, by the decisions on the channels it reads and makes, and by its form.

    Where a layer's channels come under several decisions (concatenation), its time is the mean of what each would give alone, weighted by
    channels, and it stays whole. A form that is not faster than the whole layer at full width is left out.

    Args:
        module: in eval mode.
        example: a normalised image ``(1, C, H, W)``.
        graph: of the module.
        decided: the groups of each decision.
        kept: ``(decisions, choices)``, the share of its channels that each choice keeps.
        precision: in which layers are timed.
        times: milliseconds of each variant of a layer.
        forms: by layer, how it may be split, and the error of each way.

    Returns:
        The costs, and for each the layer and its forms, ``None`` the whole one.
    """
    decision_of = {unit: d for d, groups in enumerate(decided) for group in groups for unit in group.units}
    calls = _calls(module, example)
    allowed = _faster(calls, forms or {}, precision, times)
    wanted: list[Variant] = []
    for call in calls:
        for form in (None, *allowed.get(call.name, ())):
            wanted += [call.at(i, o, precision, form) for i in _grid(call, "in", form) for o in _grid(call, "out", form)]
    found = dict(zip(wanted, times(wanted), strict=True))
    costs, layers = [], []
    for call in calls:
        ends = {dim: _shares(graph.classes.get((f"{call.name}.weight", dim)), decision_of) for dim in (0, 1)}
        reads, makes = {FIXED: 1.0} if call.depthwise else ends[1], ends[0]
        is_simple = len(reads) == len(makes) == 1
        mine: list[Form | None] = [None, *(allowed.get(call.name, ()) if is_simple else ())]
        errors = np.array([0.0 if form is None else (forms or {})[call.name][form] for form in mine])
        tables = []
        for form in mine:
            inputs, outputs = _grid(call, "in", form), _grid(call, "out", form)
            tables.append((np.array([[found[call.at(i, o, precision, form)] for o in outputs] for i in inputs]), inputs, outputs))
        for a, share_a in reads.items():
            for b, share_b in makes.items():
                wide_in, wide_out = (
                    total * (np.ones(kept.shape[1]) if d == FIXED else kept[d])
                    for total, d in ((call.shape.in_channels, a), (call.shape.out_channels, b))
                )
                ms = np.array([_between(table, inputs, outputs, wide_in, wide_out) for table, inputs, outputs in tables])
                costs.append(Cost(a, b, share_a * share_b * ms, errors))
                layers.append((call.name, mine))
    return costs, layers


def _faster(calls: Sequence[_Call], forms: Mapping[str, Mapping[Form, float]], precision: Precision, times: Times) -> dict[str, list[Form]]:
    """Of each layer that runs once, the forms that are faster than the whole one by what counts as a difference."""
    names = [call.name for call in calls]
    once = [call for call in calls if call.name in forms and names.count(call.name) == 1]
    tried = [(call, form) for call in once for form in (None, *forms[call.name])]
    variants = [call.at(call.shape.in_channels, call.shape.out_channels, precision, form) for call, form in tried]
    ms = {(call.name, form): t for (call, form), t in zip(tried, times(variants), strict=True)}
    gain = 1 + SMALLEST_DIFFERENCE / 100
    return {call.name: [f for f in forms[call.name] if ms[call.name, f] * gain < ms[call.name, None]] for call in once}


def _grid(call: _Call, side: str, form: Form | None) -> list[int]:
    """Widths that are timed, whole multiples of 8 where there is room for them."""
    width = call.shape.in_channels if side == "in" else call.shape.out_channels
    if side == "in" and call.depthwise:
        return [width]
    step = 8 if width >= 64 else 1
    return sorted({max(1, round(width * share / step) * step) for share in (_TIMED if form is None else _TIMED_SPLIT)} | {width})


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
