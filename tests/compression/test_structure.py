"""The law of structured pruning: the pruned network equals the original with those channels zeroed."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning_nets import (
    NETS,
    Auxiliary,
    ChannelShuffle,
    DepthwiseMultiplier,
    Grouped,
    LiteralSplit,
    Net,
    PaddedShortcut,
    Residual,
    SharedWeights,
    randomised,
)
from torch import Tensor, nn

from planish.compression.graph import structure
from planish.compression.graph.label_classes import UnionFind
from planish.compression.graph.structure import ChannelGraph
from planish.compression.pruning.channel_pruning import exact
from planish.errors import TechniqueError


def example(seed: int = 0, n: int = 2) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def unread(module: nn.Module, graph: ChannelGraph, units: list[int]) -> nn.Module:
    """The original network in which no layer reads the removed channels: made here from the layers' kinds, not by the library."""
    module = copy.deepcopy(module)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ConvTranspose2d):
            axis = 0 if layer.groups < layer.in_channels else None
        elif isinstance(layer, nn.Conv2d):
            axis = 1 if layer.groups < layer.in_channels or layer.groups == 1 else None
        else:
            axis = 1 if isinstance(layer, nn.Linear) else None
        classes = graph.classes.get((f"{name}.weight", axis)) if axis is not None else None
        if classes is not None:
            layer.weight.data.index_fill_(axis, torch.from_numpy(np.flatnonzero(np.isin(classes, units))), 0.0)
    return module


def some_units(graph: ChannelGraph, rng: random.Random) -> list[int]:
    return [unit for group in graph.groups for unit in rng.sample(group.units, rng.randrange(len(group.units)))]


@pytest.mark.parametrize("kind", NETS, ids=lambda k: k.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_pruned_equals_masked(kind: type[Net], seed: int) -> None:
    module = randomised(kind(), seed % 7)
    graph = structure.trace(module, example(n=1))
    assert graph.groups
    units = some_units(graph, random.Random(seed))
    pruned = structure.prune(module, graph, units)
    with torch.no_grad():
        got, expected = pruned(example(seed % 100)), unread(module, graph, units)(example(seed % 100))
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert structure.difference(module, graph, units, example()) <= 1e-10
    recorded = json.loads(json.dumps(structure.structure_of(module, pruned, graph, units)))
    rebuilt = structure.rebuild(kind(), recorded).eval()
    rebuilt.load_state_dict(pruned.state_dict())
    assert torch.equal(rebuilt(example()), pruned(example()))


@pytest.mark.parametrize("kind", NETS, ids=lambda k: k.__name__)
def test_pruned_still_trains(kind: type[Net]) -> None:
    module = randomised(kind())
    graph = structure.trace(module, example(n=1))
    pruned = structure.prune(module, graph, some_units(graph, random.Random(1))).train()
    outputs = pruned(example())
    sum(o.sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for n, p in pruned.named_parameters() if "tied" not in n)


def removed(module: nn.Module, graph: ChannelGraph, share: float = 0.5) -> nn.Module:
    return structure.prune(module, graph, [u for g in graph.groups for u in g.units[: round(len(g.units) * share)]])


def test_residual_channels_go_together() -> None:
    graph = structure.trace(Residual().eval(), example(n=1))
    assert sorted(len(g.units) for g in graph.groups) == [16, 24]
    trunk = next(g for g in graph.groups if len(g.units) == 16)
    assert {n.split(".")[0] for n, d in trunk.dims if d == 0} == {"stem", "b", "c"}
    assert {n.split(".")[0] for n, d in trunk.dims if d == 1} == {"a", "c", "head"}
    assert "made by" in str(trunk)


def test_widths_after_cutting() -> None:
    shuffle = removed(randomised(net := ChannelShuffle()), structure.trace(net, example(n=1)))
    assert shuffle.stem[0].out_channels == 8
    assert shuffle.branches[0][0].in_channels == 4
    grouped = removed(randomised(net := Grouped()), structure.trace(net, example(n=1)))
    assert (grouped.a[0].groups, grouped.a[0].in_channels, grouped.a[0].out_channels) == (4, 8, 16)
    deep = removed(randomised(net := DepthwiseMultiplier()), structure.trace(net, example(n=1)))
    assert (deep.a[0].groups, deep.a[0].out_channels, deep.c[0].groups) == (8, 16, 8)
    assert deep.a[1].num_features == 16


def test_zero_padding_keeps_its_channels() -> None:
    graph = structure.trace(PaddedShortcut().eval(), example(n=1))
    classes = graph.classes["b.0.weight", 0]
    assert (classes[:8] == 0).all()
    assert (classes[24:] == 0).all()
    assert (classes[8:24] == graph.classes["stem.0.weight", 0]).all()


def test_shared_weights_stay_shared() -> None:
    net = randomised(SharedWeights())
    pruned = removed(net, structure.trace(net, example(n=1)))
    assert pruned.tied.weight is pruned.b.weight
    assert len(pruned.b.weight) < 16


def test_heads_of_training_fit() -> None:
    net = randomised(Auxiliary())
    pruned = removed(net, structure.trace(net, example(n=1)))
    assert pruned.aux.in_features == pruned.stem[0].out_channels == 8


def test_sizes_in_code_freeze_what_they_touch() -> None:
    net = randomised(LiteralSplit())
    graph = structure.trace(net, example(n=1))
    chosen = {group: list(group.units[: len(group.units) // 2]) for group in graph.groups}
    left, frozen = exact(net, graph, chosen, example(n=1))
    pruned = structure.prune(net, graph, [u for units in left.values() for u in units])
    assert frozen
    assert (pruned.a[0].out_channels, pruned.c[0].out_channels, pruned.stem[0].out_channels) == (16, 8, 16)
    assert structure.difference(net, graph, [u for units in left.values() for u in units], example()) <= 1e-10


def test_original_is_untouched_and_nothing_is_emptied() -> None:
    net = randomised(Residual())
    before = copy.deepcopy(net.state_dict())
    graph = structure.trace(net, example(n=1))
    removed(net, graph)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(TechniqueError, match="at least one"):
        structure.prune(net, graph, graph.groups[0].units)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_union_find_is_connectivity(pairs: list[tuple[int, int]]) -> None:
    classes = UnionFind()
    classes.new(19)
    for pair in pairs[::2]:
        classes.unite(np.array([pair[0]]), np.array([pair[1]]))
    rest = np.array(pairs[1::2], np.int64).reshape(-1, 2)
    classes.unite(rest[:, 0], rest[:, 1])
    expected = list(range(20))
    for _ in range(20):
        for a, b in pairs:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert classes.find(np.arange(20)).tolist() == expected
