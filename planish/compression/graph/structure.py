"""The channels that can be removed from a network, their exact physical removal, and its repetition on a freshly built network."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from planish.compression.graph.channel_labels import label
from planish.compression.graph.label_classes import FROZEN, Dim, Ints
from planish.errors import TechniqueError
from planish.models.outputs import flattened

Size = tuple[str, str, int]  # module, attribute, index in it if it is a list, else -1


@dataclass(frozen=True)
class Group:
    """Units of channels that belong to the same layers and together make up their width.

    Args:
        units: class numbers; removing a unit removes the slices of that class from all of ``dims``.
        dims: the (parameter, dimension) pairs in which each unit has slices.
        channels: output channels that one unit removes from a layer, at most; more than 1 where grouped convolution or channel shuffle ties
            several together.
    """

    units: tuple[int, ...]
    dims: tuple[Dim, ...]
    channels: int

    @property
    def name(self) -> str:
        """The first layer that outputs these channels; several groups share a name if the channels of that layer are used differently."""
        return next((n.removesuffix(".weight") for n, d in self.dims if d == 0 and n.endswith(".weight")), "")

    def __str__(self) -> str:
        made = [n.rpartition(".")[0] for n, d in self.dims if d == 0 and n.endswith("weight")]
        read = [n.rpartition(".")[0] for n, d in self.dims if d == 1]
        return f"{len(self.units)} units of {self.channels}: made by {', '.join(made)}; read by {', '.join(read)}"


@dataclass(frozen=True)
class ChannelGraph:
    """The slices of parameters that can only be removed together.

    Args:
        classes: for each parameter dimension, the class of each slice; ``FROZEN`` if it cannot be removed.
        sizes: the same for sizes that modules store as integers.
        groups: the groups of channels that can be removed.
    """

    classes: Mapping[Dim, Ints]
    sizes: Mapping[Size, Ints] = field(repr=False)
    groups: tuple[Group, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.groups))


def trace(module: nn.Module, example: Tensor) -> ChannelGraph:
    """Find the channels that can be removed.

    Args:
        module: any network; not changed.
        example: a normalised input ``(1, C, H, W)`` at the size the network will run at.
    """
    labels = label(module, example)
    classes = {dim: labels.classes.find(members) for dim, members in labels.dims.items()}
    sizes = {size: labels.classes.find(members) for size, members in labels.sizes.items()}
    # For each unit: the parameter dimensions and sizes in which it has slices, and the largest number of slices in one output dimension.
    places: dict[int, list[Any]] = {}
    widest: dict[int, int] = {}
    for place, roots in [*classes.items(), *sizes.items()]:
        for unit, count in zip(*np.unique(roots, return_counts=True), strict=True):
            if unit != FROZEN:
                places.setdefault(int(unit), []).append(place)
                widest[int(unit)] = (
                    max(widest.get(int(unit), 1), int(count)) if len(place) == 2 and place[1] == 0 else widest.get(int(unit), 1)
                )
    together: dict[tuple[Any, ...], list[int]] = {}
    for unit, where in places.items():
        together.setdefault((widest[unit], *where), []).append(unit)
    groups = tuple(
        Group(tuple(units), tuple(p for p in key[1:] if len(p) == 2), key[0])
        for key, units in together.items()
        if len(units) > 1  # every layer keeps at least one channel
    )
    return ChannelGraph(classes, sizes, groups)


def prune(module: nn.Module, graph: ChannelGraph, units: Iterable[int]) -> nn.Module:
    """Return a copy of the network without these units.

    Raises:
        TechniqueError: a layer would lose all its channels.
    """
    return repeated(module, graph, dict.fromkeys(units, 0))


def repeated(module: nn.Module, graph: ChannelGraph, times: Mapping[int, int]) -> nn.Module:
    """Return a copy of the network in which each unit is repeated ``times[unit]`` times, side by side; once if it is not in ``times``.

    Raises:
        TechniqueError: a layer would lose all its channels.
    """
    module = copy.deepcopy(module)
    tensors = _tensors(module)
    for (name, dim), classes in graph.classes.items():
        kept = np.repeat(np.arange(len(classes)), _times(classes, times))
        if len(kept) == 0:
            raise TechniqueError(f"all {len(classes)} channels of {name} would be cut", "every layer keeps at least one")
        if len(kept) != len(classes):
            tensors[name] = tensors[name].detach().index_select(dim, torch.from_numpy(kept).to(tensors[name].device))
    _replace(module, tensors)
    for (owner, attribute, place), classes in graph.sizes.items():
        child = module.get_submodule(owner)
        count = int(_times(classes, times).sum())
        if place < 0:
            setattr(child, attribute, count)
        else:
            held = getattr(child, attribute)
            setattr(child, attribute, type(held)([*held[:place], count, *held[place + 1 :]]))
    return module


def _times(classes: Ints, times: Mapping[int, int]) -> Ints:
    units, place = np.unique(classes, return_inverse=True)
    return np.array([times.get(int(unit), 1) for unit in units], np.int64)[place]


def masked(module: nn.Module, graph: ChannelGraph, units: Iterable[int]) -> nn.Module:
    """Return a copy of the network at full size in which all weights of these units are zero; its outputs must equal those of ``prune``."""
    cut = np.fromiter(units, np.int64)
    module = copy.deepcopy(module)
    tensors = _tensors(module)
    with torch.no_grad():
        for (name, dim), classes in graph.classes.items():
            gone = torch.from_numpy(np.flatnonzero(np.isin(classes, cut)))
            if len(gone) and tensors[name].is_floating_point():
                tensors[name].index_fill_(dim, gone.to(tensors[name].device), 1.0 if name.endswith("running_var") else 0.0)
    return module


def structure_of(module: nn.Module, pruned: nn.Module, graph: ChannelGraph, units: Iterable[int]) -> dict[str, Any]:
    """Describe how ``pruned`` differs from ``module`` in JSON values, for ``rebuild``."""
    return difference_of(module, pruned, graph, dict.fromkeys(units, 0))


def difference_of(module: nn.Module, changed: nn.Module, graph: ChannelGraph, times: Mapping[int, int]) -> dict[str, Any]:
    """Describe how the result of ``repeated`` differs from ``module``, in JSON values, for ``rebuild``."""
    before, after, saved = _tensors(module), _tensors(changed), module.state_dict(keep_vars=True)
    modules: dict[str, dict[str, Any]] = {}
    for owner, attribute, _ in graph.sizes:
        held = getattr(changed.get_submodule(owner), attribute)
        modules.setdefault(owner, {})[attribute] = list(held) if isinstance(held, (tuple, list)) else held
    # Non-persistent buffers, which a state dict does not contain, are indexed from those of the freshly built network.
    unsaved = set(before) - set(saved)
    kept = {
        name: {str(d): np.repeat(np.arange(len(c)), _times(c, times)).tolist() for (n, d), c in graph.classes.items() if n == name}
        for name in unsaved
        if before[name].shape != after[name].shape
    }
    shapes = {name: list(t.shape) for name, t in after.items() if t.shape != before[name].shape and name not in unsaved}
    return {"modules": modules, "parameters": shapes, "kept": kept}


def rebuild(module: nn.Module, structure: Mapping[str, Any], may_grow: bool = False) -> nn.Module:
    """Give a freshly built network the sizes of a pruned one, so that its weights fit; changes and returns ``module``.

    Args:
        module: a freshly built network.
        structure: the result of ``structure_of`` or ``difference_of``.
        may_grow: whether the structure may be that of a widened network.

    Raises:
        TechniqueError: the network is not the one the structure was recorded from.
    """
    tensors = _tensors(module)
    for name, shape in structure["parameters"].items():
        if name not in tensors or (not may_grow and any(new > old for new, old in zip(shape, tensors[name].shape, strict=False))):
            raise TechniqueError(f"the network has no {name} of at least {shape}", "a structure fits the network it was recorded from")
        tensors[name] = tensors[name].new_zeros(shape)
    for name, kept in structure["kept"].items():
        for dim, places in kept.items():
            tensors[name] = tensors[name].index_select(int(dim), torch.tensor(places))
    _replace(module, tensors)
    for owner, attributes in structure["modules"].items():
        for attribute, value in attributes.items():
            child = module.get_submodule(owner)
            setattr(child, attribute, type(getattr(child, attribute))(value))
    return module


def difference(module: nn.Module, graph: ChannelGraph, units: Sequence[int], example: Tensor) -> float:
    """The relative difference between the outputs of the pruned and the masked network, in float64 and eval mode.

    Returns:
        The largest absolute difference divided by the largest absolute output; infinite if the pruned network does not run, or if any
        output is not finite.
    """
    module = copy.deepcopy(module).double().eval()
    example = example.double()
    try:
        with torch.no_grad():
            got = flattened(prune(module, graph, units)(example))
            expected = flattened(masked(module, graph, units)(example))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError):  # the network's code expects the original sizes
        return math.inf
    if got.shape != expected.shape or not (torch.isfinite(got).all() and torch.isfinite(expected).all()):
        return math.inf
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _replace(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace tensors by name, shared ones wherever they are used, and update the size attributes of the layers."""
    old = _tensors(module)
    new = {
        id(old[name]): nn.Parameter(t.detach(), old[name].requires_grad) if isinstance(old[name], nn.Parameter) else t
        for name, t in tensors.items()
        if t is not old[name]
    }
    for child in module.modules():
        for own in (child._parameters, child._buffers):
            for name, tensor in own.items():
                if id(tensor) in new:
                    own[name] = new[id(tensor)]  # type: ignore[assignment]
        _update_sizes(child)


def _update_sizes(layer: nn.Module) -> None:
    """Set a layer's size attributes to the shapes of its parameters."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        first, second = layer.weight.shape[:2]
        is_depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        if layer.transposed:
            layer.groups = first if is_depthwise else layer.groups
            layer.in_channels, layer.out_channels = first, second * layer.groups
        else:
            if is_depthwise:
                layer.groups = first * layer.in_channels // layer.out_channels
            layer.in_channels, layer.out_channels = second * layer.groups, first
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._NormBase):
        known = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = len(known) if known is not None else layer.num_features
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
