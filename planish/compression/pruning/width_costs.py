"""The latency of a network's layers as a function of their widths and forms, measured on a coarse grid and interpolated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.factorization.factor_layers import Form, chain, ranks_of, shape_of
from planish.compression.graph.label_classes import Ints
from planish.compression.graph.structure import ChannelGraph, Group
from planish.compression.pruning.width_choice import FIXED, Cost, Floats
from planish.compression.reconstruction.layer_moments import watching
from planish.devices.layer_latency import ConvShape, Pair, Precision, Variant
from planish.evaluation.latency import SMALLEST_DIFFERENCE

_TIMED = (0.125, 0.25, 0.5, 0.75, 1.0)  # shares of a layer's width that are timed
_TIMED_ELSE = (0.25, 0.5, 1.0)  # the same for factorized and for float layers


@dataclass(frozen=True)
class LayerForm:
    """The factorization and the precision of a layer.

    Args:
        form: the factorization; None for the original layer.
        is_float: whether the layer stays float between INT8 layers.
    """

    form: Form | None = None
    is_float: bool = False


_WHOLE = LayerForm()

Times = Callable[[Sequence[Variant]], Sequence[float]]


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer: its name, its shape and the height and width of its input."""

    name: str
    shape: ConvShape
    size: Pair

    @property
    def depthwise(self) -> bool:
        return self.shape.groups > 1 and self.shape.groups == self.shape.in_channels

    def at(self, inputs: int, outputs: int, precision: Precision, layer_form: LayerForm = _WHOLE) -> Variant:
        """The same layer at other widths, in the given form and precision."""
        groups = self.shape.groups
        if self.depthwise:
            each = self.shape.out_channels // self.shape.in_channels
            inputs, outputs, groups = max(1, outputs // each), max(1, outputs // each) * each, max(1, outputs // each)
        elif groups > 1:
            inputs, outputs = (max(1, round(n / groups)) * groups for n in (inputs, outputs))
        shape = replace(self.shape, in_channels=inputs, out_channels=outputs, groups=groups)
        layers = (shape,) if layer_form.form is None else chain(shape, layer_form.form.method, ranks_of(layer_form.form, shape))
        return Variant(layers, self.size, inputs, "fp32_in_int8" if layer_form.is_float else precision)


def width_costs(
    module: nn.Module,
    example: Tensor,
    graph: ChannelGraph,
    decided: Sequence[Sequence[Group]],
    kept: Floats,
    precision: Precision,
    times: Times,
    sensitivity: Mapping[str, Mapping[LayerForm, float]] | None = None,
) -> tuple[list[Cost], list[tuple[str, list[LayerForm]]]]:
    """The cost of each layer as a function of the decisions on its input and output channels and of its form.

    If the channels of a layer belong to several decisions (concatenation), its latency is the mean over the decisions, weighted by
    channels, and the layer is neither factorized nor kept in float; neither is a layer that runs several times.

    Args:
        module: the network, in eval mode.
        example: a normalised image ``(1, C, H, W)``.
        graph: the channel graph of the network.
        decided: the groups of each decision.
        kept: the share of channels that each choice keeps ``(decisions, choices)``.
        precision: precision in which layers are timed.
        times: returns the latency in milliseconds of each variant of a layer.
        sensitivity: for each layer, the forms it may have and the error of each.

    Returns:
        The costs, and for each of them the name of the layer and its forms, the original layer first.
    """
    decision_of = {unit: d for d, groups in enumerate(decided) for group in groups for unit in group.units}
    calls, given = layer_calls(module, example), sensitivity or {}
    once = _running_once(calls)
    layer_forms = {
        call.name: [_WHOLE, *(form for form in given.get(call.name, {}) if form != _WHOLE and call.name in once)] for call in calls
    }
    wanted: list[Variant] = []
    for call in calls:
        for layer_form in layer_forms[call.name]:
            wanted += [call.at(i, o, precision, layer_form) for i in _grid(call, "in", layer_form) for o in _grid(call, "out", layer_form)]
    found = dict(zip(wanted, times(wanted), strict=True))
    costs, layers = [], []
    for call in calls:
        ends = {dim: _shares(graph.classes.get((f"{call.name}.weight", dim)), decision_of) for dim in (0, 1)}
        reads, makes = {FIXED: 1.0} if call.depthwise else ends[1], ends[0]
        mine = layer_forms[call.name] if len(reads) == len(makes) == 1 else [_WHOLE]
        errors = np.array([given.get(call.name, {}).get(layer_form, 0.0) for layer_form in mine])
        tables = []
        for layer_form in mine:
            inputs, outputs = _grid(call, "in", layer_form), _grid(call, "out", layer_form)
            tables.append((np.array([[found[call.at(i, o, precision, layer_form)] for o in outputs] for i in inputs]), inputs, outputs))
        for a, share_a in reads.items():
            for b, share_b in makes.items():
                wide_in, wide_out = (
                    total * (np.ones(kept.shape[1]) if d == FIXED else kept[d])
                    for total, d in ((call.shape.in_channels, a), (call.shape.out_channels, b))
                )
                ms = np.array([interpolated(table, inputs, outputs, wide_in, wide_out) for table, inputs, outputs in tables])
                costs.append(Cost(a, b, share_a * share_b * ms, errors))
                layers.append((call.name, mine))
    return costs, layers


def faster_forms(
    module: nn.Module, example: Tensor, forms: Mapping[str, Sequence[Form]], precision: Precision, times: Times
) -> dict[str, list[Form]]:
    """The factorizations that are measurably faster than the original layer at full width; layers without any are left out.

    Args:
        module: the network, in eval mode.
        example: a normalised image ``(1, C, H, W)``.
        forms: the factorizations to time, by layer.
        precision: as in ``width_costs``.
        times: as in ``width_costs``.
    """
    calls = layer_calls(module, example)
    once = _running_once(calls)
    tried = [
        (call, layer_form)
        for call in calls
        if call.name in once and call.name in forms
        for layer_form in (_WHOLE, *map(LayerForm, forms[call.name]))
    ]
    variants = [call.at(call.shape.in_channels, call.shape.out_channels, precision, layer_form) for call, layer_form in tried]
    ms = {(call.name, layer_form.form): t for (call, layer_form), t in zip(tried, times(variants), strict=True)}
    gain = 1 + SMALLEST_DIFFERENCE / 100
    found = {call.name: [form for form in forms[call.name] if ms[call.name, form] * gain < ms[call.name, None]] for call, _ in tried}
    return {name: faster for name, faster in found.items() if faster}


def layer_variants(module: nn.Module, example: Tensor, precision: Precision) -> list[Variant]:
    """The convolutions and linear layers of a network or of a part of it, once for each call.

    Args:
        module: in eval mode.
        example: an input ``(1, C, H, W)``.
        precision: as in ``width_costs``.
    """
    return [call.at(call.shape.in_channels, call.shape.out_channels, precision) for call in layer_calls(module, example)]


def _running_once(calls: Sequence[LayerCall]) -> set[str]:
    counts = Counter(call.name for call in calls)
    return {name for name, count in counts.items() if count == 1}


def _grid(call: LayerCall, side: str, layer_form: LayerForm) -> list[int]:
    """The widths to time; multiples of 8 for layers of at least 64 channels, besides the full width."""
    width = call.shape.in_channels if side == "in" else call.shape.out_channels
    if side == "in" and call.depthwise:
        return [width]
    step = 8 if width >= 64 else 1
    return sorted({max(1, round(width * share / step) * step) for share in (_TIMED if layer_form == _WHOLE else _TIMED_ELSE)} | {width})


def interpolated(ms: Floats, inputs: list[int], outputs: list[int], wide_in: Floats, wide_out: Floats) -> Floats:
    """Interpolate measured latencies bilinearly.

    Args:
        ms: latencies ``(inputs, outputs)``.
        inputs: numbers of input channels that were timed, ascending.
        outputs: numbers of output channels that were timed, ascending.
        wide_in: numbers of input channels ``(I,)``.
        wide_out: numbers of output channels ``(O,)``.

    Returns:
        ``(I, O)``.
    """
    rows = np.array([np.interp(wide_out, outputs, row) for row in ms])
    return np.array([np.interp(wide_in, inputs, column) for column in rows.T]).T


def _shares(classes: Ints | None, decision_of: dict[int, int]) -> dict[int, float]:
    """The share of a layer's channels that belongs to each decision."""
    if classes is None:
        return {FIXED: 1.0}
    found, counts = np.unique([decision_of.get(int(unit), FIXED) for unit in classes], return_counts=True)
    return {int(d): float(n) / len(classes) for d, n in zip(found, counts, strict=True)}


def layer_calls(module: nn.Module, example: Tensor) -> list[LayerCall]:
    """Find all calls of convolution and linear layers, in the order in which they run.

    Args:
        module: the network.
        example: an input ``(1, C, H, W)`` on the device of the network, which may be ``meta``.
    """
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    found: list[LayerCall] = []

    def see(name: str, given: Tensor, output: Tensor) -> None:
        is_map = isinstance(layers[name], nn.Conv2d)
        found.append(LayerCall(name, shape_of(layers[name]), (given.shape[2], given.shape[3]) if is_map else (1, given[..., 0].numel())))

    with torch.no_grad(), watching(layers, see):
        module(example)
    return found
