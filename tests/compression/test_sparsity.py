"""Pruning of single weights against torch's own, and what distillation leaves of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pruning_nets import DepthwiseMultiplier, Residual, randomised
from pydantic import ValidationError
from test_channel_pruning import TASK, artifact
from torch import nn
from torch.nn.utils import prune as reference

from planish.compression import ChannelPruning, NMPruning, UnstructuredPruning
from planish.compression.pruning.importance import weight_taylor
from planish.errors import PlanError, TechniqueError
from planish.plan import Plan


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.weight.detach() for n, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8])
def test_global_magnitude_is_torchs(sparsity: float) -> None:
    net = randomised(Residual())
    found = weights(UnstructuredPruning(sparsity=sparsity).apply(artifact(net), TASK).module)
    layers = [(m, "weight") for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    reference.global_unstructured(layers, reference.L1Unstructured, amount=sparsity)
    for name, weight in weights(net).items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)


def test_layer_scope_takes_the_same_share_everywhere() -> None:
    net = randomised(Residual())
    after = UnstructuredPruning(sparsity=0.7, scope="layer").apply(artifact(net), TASK)
    for name, weight in weights(after.module).items():
        assert int((weight == 0).sum()) == round(0.7 * weight.numel())
        gone, left = weights(net)[name][weight == 0].abs(), weight[weight != 0].abs()
        assert gone.max() <= left.min()
    assert "70 % of all parameters" not in after.lineage.steps[-1].notes  # biases and batch norm are not pruned
    assert "not faster" in after.lineage.steps[-1].notes


def test_no_layer_vanishes() -> None:
    net = randomised(Residual())
    net.a[0].weight.data *= 1e-4
    after = weights(UnstructuredPruning(sparsity=0.8).apply(artifact(net), TASK).module)
    assert int((after["a.0"] != 0).sum()) == np.ceil(0.1 * 0.2 * after["a.0"].numel())


def test_taylor_is_the_squared_change_of_the_loss() -> None:
    """For a loss that is linear in the weights, the first-order change is the change."""
    layer = nn.Linear(4, 3, bias=False)
    images, targets = torch.randn(6, 4), torch.randn(6, 3)
    loss: Any = lambda network, outputs, targets: (outputs * targets).sum()  # noqa: E731
    (scores,) = weight_taylor(layer, [layer.weight], lambda: [(images, targets)], loss)
    before = loss(layer, layer(images), targets).item()
    for place in np.ndindex(3, 4):
        other = copy.deepcopy(layer)
        other.weight.data[place] = 0
        assert scores[place].item() == pytest.approx((loss(other, other(images), targets).item() - before) ** 2, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("importance", ["taylor", "random"])
def test_other_importances(importance: Any) -> None:
    after = weights(UnstructuredPruning(sparsity=0.6, importance=importance).apply(artifact(randomised(Residual())), TASK).module)
    zeros, total = sum(int((w == 0).sum()) for w in after.values()), sum(w.numel() for w in after.values())
    assert zeros == round(0.6 * total)


def test_which_layers() -> None:
    net = randomised(DepthwiseMultiplier())
    linear = weights(UnstructuredPruning(sparsity=0.5, layers="linear").apply(artifact(net), TASK).module)
    assert {n for n, w in linear.items() if (w == 0).any()} == {"head"}
    everything = weights(UnstructuredPruning(sparsity=0.5, scope="layer").apply(artifact(net), TASK).module)
    assert {n for n, w in everything.items() if (w == 0).any()} == {"stem.0", "b.0", "head"}  # not the depthwise ones
    with pytest.raises(TechniqueError, match="no linear layer"):
        UnstructuredPruning(sparsity=0.5, layers="linear").apply(artifact(nn.Sequential(nn.Conv2d(3, 5, 3))), TASK)


def test_more_zeros_keep_the_first_ones() -> None:
    first = UnstructuredPruning(sparsity=0.5, importance="random").apply(artifact(randomised(Residual())), TASK)
    second = weights(UnstructuredPruning(sparsity=0.8).apply(first, TASK).module)
    for name, weight in weights(first.module).items():
        assert not second[name][weight == 0].any()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 8)])
def test_n_of_m_largest_along_the_input_channels(n: int, m: int) -> None:
    net = randomised(Residual())
    after = NMPruning(n=n, m=m).apply(artifact(net), TASK)
    found = weights(after.module)
    assert torch.equal(found["stem.0"], weights(net)["stem.0"])  # three channels
    assert "stem.0" in after.lineage.steps[-1].notes
    for name, before in weights(net).items():
        if name == "stem.0":
            continue
        old, new = (w.numpy().reshape(*w.shape[:2], -1) for w in (before, found[name]))
        for o in range(old.shape[0]):
            for k in range(old.shape[2]):
                for start in range(0, old.shape[1], m):
                    part = old[o, start : start + m, k]
                    expected = np.where(np.abs(part) >= np.sort(np.abs(part))[-n], part, 0)
                    np.testing.assert_array_equal(new[o, start : start + m, k], expected)


def test_wrong_patterns_are_refused() -> None:
    for n, m in ((4, 4), (0, 4), (5, 2)):
        with pytest.raises(ValidationError):
            NMPruning(n=n, m=m)
    with pytest.raises(PlanError, match="n must be below m"):
        Plan.from_dicts([{"name": "nm_pruning", "n": 4, "m": 4}])
    with pytest.raises(TechniqueError, match="multiple of 32"):
        NMPruning(n=1, m=32).apply(artifact(Residual()), TASK)
    with pytest.raises(PlanError, match="needs weights dense or sparse, and here it is n:m"):
        Plan(NMPruning(), ChannelPruning(pruning_ratio=0.5)).check(artifact(Residual()).facts)


def test_weights_that_are_not_numbers() -> None:
    net = randomised(Residual())
    net.b[0].weight.data[0, 0] = torch.nan
    for technique in (UnstructuredPruning(sparsity=0.5), NMPruning()):
        with pytest.raises(TechniqueError, match=r"b\.0.*not finite"):
            technique.apply(artifact(net), TASK)


@pytest.mark.parametrize("technique", [UnstructuredPruning(0.6), UnstructuredPruning(0.6, importance="taylor"), NMPruning()])
def test_the_layout_in_memory_does_not_matter(technique: Any) -> None:
    net = randomised(Residual())
    expected = weights(technique.apply(artifact(net), TASK).module)
    found = weights(technique.apply(artifact(net.to(memory_format=torch.channels_last)), TASK).module)  # type: ignore[call-overload]
    for name, weight in expected.items():
        assert torch.equal(found[name] == 0, weight == 0)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_first_axis_of_a_transposed_convolution_is_its_input(groups: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 12, 2, 2, groups=groups), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    kept = NMPruning(layers="conv").apply(artifact(net), TASK).module[1].weight != 0
    assert (kept.reshape(2, 4, -1).sum(1) == 2).all()
    with pytest.raises(TechniqueError, match="multiple of 8"):
        NMPruning(m=8).apply(artifact(nn.Sequential(nn.ConvTranspose2d(8, 16, 2, groups=2))), TASK)
