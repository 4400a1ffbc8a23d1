"""A network's latency, predicted before it is built: the sum of its layers, which are timed on a coarse grid of widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from planish.compression.pruning.width_costs import Times, interpolated, layer_variants
from planish.devices.layer_latency import Precision, Variant, multiplications
from planish.models.space.architecture import StageSpec
from planish.models.space.network import blocks, stem
from planish.search.architecture.sampling import SampledNetwork

_GRID = (8, 32, 96, 256)  # widths that are timed, besides the smallest and the largest that occur
_ALL = 4  # if no more widths occur, all of them are timed


@dataclass(frozen=True)
class NetworkLayers:
    """The convolutions and linear layers of a network or of a part of it, in the order in which they run.

    Args:
        layers: a variant with one layer for each call.
        parameters: number of parameters.
        outputs: shape of the outputs for one image.
    """

    layers: tuple[Variant, ...]
    parameters: int
    outputs: tuple[int, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image."""
        return sum(map(multiplications, self.layers))


def layers_of(network: SampledNetwork, channels: int, num_classes: int, precision: Precision) -> NetworkLayers:
    """Find the layers of a network without building all of it: those of each different block are found once.

    Args:
        network: the network.
        channels: input channels.
        num_classes: number of classes.
        precision: precision of the layers.
    """
    found, size = network.architecture, network.image_size
    parts = [_stem(found.stem_width, found.stem_stride, (channels, size, size), precision)]
    for spec in found.stages:
        for place in range(spec.depth):
            parts.append(_block(replace(spec, depth=1, stride=spec.stride if place == 0 else 1), parts[-1].outputs, precision))
    parts.append(_classifier(parts[-1].outputs[0], num_classes, precision))
    layers = tuple(layer for part in parts for layer in part.layers)
    return NetworkLayers(layers, sum(part.parameters for part in parts), parts[-1].outputs)


@cache
def _stem(width: int, stride: int, shape: tuple[int, ...], precision: Precision) -> NetworkLayers:
    return _watched(lambda: stem(width, stride, shape[0]), shape, precision)


@cache
def _block(spec: StageSpec, shape: tuple[int, ...], precision: Precision) -> NetworkLayers:
    return _watched(lambda: blocks(spec, shape[0])[0], shape, precision)


@cache
def _classifier(width: int, num_classes: int, precision: Precision) -> NetworkLayers:
    return _watched(lambda: nn.Linear(width, num_classes), (width,), precision)


def _watched(make: Callable[[], nn.Module], shape: tuple[int, ...], precision: Precision) -> NetworkLayers:
    with torch.device("meta"), torch.no_grad():
        module, example = make().eval(), torch.empty(1, *shape)
        outputs = module(example)
        layers = layer_variants(module, example, precision)
    return NetworkLayers(tuple(layers), sum(p.numel() for p in module.parameters()), tuple(outputs.shape[1:]))


class LayerTable:
    """The latencies of layers, measured at some widths of each kind of layer and interpolated between them.

    Args:
        layers: all layers whose latency will be asked for; a kind are those that differ in their widths only.
        times: returns the latency in milliseconds of each variant, see ``devices.layer_latency``.
    """

    def __init__(self, layers: Iterable[Variant], times: Times) -> None:
        widths: dict[Variant, set[tuple[int, int]]] = {}
        for layer in layers:
            widths.setdefault(_kind(layer), set()).add(_widths(layer))
        grids = {kind: (_grid(i for i, _ in found), _grid(o for _, o in found)) for kind, found in widths.items()}
        wanted = [_at(kind, i, o) for kind, (inputs, outputs) in grids.items() for i in inputs for o in outputs]
        found = dict(zip(wanted, times(wanted), strict=True))
        self.measured = len(found)
        self._tables = {
            kind: (np.array([[found[_at(kind, i, o)] for o in outputs] for i in inputs]), inputs, outputs)
            for kind, (inputs, outputs) in grids.items()
        }
        self._known: dict[Variant, float] = {}

    def milliseconds(self, layers: Iterable[Variant]) -> float:
        """Return the sum of the latencies of layers."""
        return sum(map(self._one, layers))

    def _one(self, layer: Variant) -> float:
        if layer not in self._known:
            inputs, outputs = _widths(layer)
            self._known[layer] = float(interpolated(*self._tables[_kind(layer)], np.array([inputs]), np.array([outputs]))[0, 0])
        return self._known[layer]


def fitted(terms: Sequence[Sequence[float]], measured: Sequence[float]) -> tuple[float, ...]:
    """Fit ``measured`` by a sum of terms with factors that are not below 0, with the least relative errors.

    Args:
        terms: for each network its terms; for latency 1 and the sum of its layers, as a network does more than its layers: it converts its
            input and starts the runtime's operations.
        measured: what was measured of each network.

    Returns:
        The factor of each term.
    """
    values = np.asarray(measured, np.float64)
    found = nnls(np.asarray(terms, np.float64) / values[:, None], np.ones(len(values)))[0]
    return tuple(map(float, found))


def _is_depthwise(layer: Variant) -> bool:
    return layer.layers[0].groups > 1


def _widths(layer: Variant) -> tuple[int, int]:
    shape = layer.layers[0]
    return (0 if _is_depthwise(layer) else shape.in_channels), shape.out_channels


def _kind(layer: Variant) -> Variant:
    shape = replace(layer.layers[0], in_channels=0, out_channels=0, groups=2 if _is_depthwise(layer) else 1)
    return replace(layer, layers=(shape,), channels=0)


def _at(kind: Variant, inputs: int, outputs: int) -> Variant:
    inputs, groups = (outputs, outputs) if _is_depthwise(kind) else (inputs, 1)
    return replace(kind, layers=(replace(kind.layers[0], in_channels=inputs, out_channels=outputs, groups=groups),), channels=inputs)


def _grid(widths: Iterable[int]) -> list[int]:
    found = sorted(set(widths))
    return found if len(found) <= _ALL else sorted({found[0], *(w for w in _GRID if found[0] < w < found[-1]), found[-1]})
