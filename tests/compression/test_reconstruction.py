"""Least squares against what they must find: a layer that can say exactly what it said, and scikit-free normal equations elsewhere."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from planish.compression.reconstruction import can_fit, reconstruct


def images(count: int = 4, size: int = 12) -> list[tuple[torch.Tensor, None]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 3, size, size, generator=generator), None) for _ in range(count)]


def network(**second: object) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, **second), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    net(images()[0][0])
    return net.eval()


def without_first(net: nn.Sequential, cut: int) -> nn.Sequential:
    """The network without the last ``cut`` channels of its first layer."""
    pruned = copy.deepcopy(net)
    kept = 8 - cut
    first, second = pruned[0], pruned[2]
    first.weight, first.bias = nn.Parameter(first.weight[:kept].detach()), nn.Parameter(first.bias[:kept].detach())
    second.weight = nn.Parameter(second.weight[:, :kept].detach())
    first.out_channels = second.in_channels = kept
    return pruned


@pytest.mark.parametrize("second", [{}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}])
def test_a_channel_that_others_can_say_is_not_missed(second: dict[str, int]) -> None:
    net = network(**second)
    with torch.no_grad():  # the last channel is twice the first
        net[0].weight[7], net[0].bias[7] = 2 * net[0].weight[0], 2 * net[0].bias[0]
    pruned = without_first(net, 1)
    x = images()[0][0]
    with torch.no_grad():
        lost = (pruned(x) - net(x)).norm()
        reconstruct(net, pruned, {"2": torch.arange(6), "5": torch.arange(5)}, images)
        assert (pruned(x) - net(x)).norm() < 0.03 * lost


def test_a_linear_layer_gets_the_solution_of_the_normal_equations() -> None:
    torch.manual_seed(0)
    before, after = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).eval(), nn.Sequential(nn.Flatten(), nn.Linear(27, 2)).eval()
    batches = images(40, 3)
    reconstruct(before, after, {"1": torch.tensor([1, 3])}, lambda: batches)
    x = torch.cat([b.flatten(1) for b, _ in batches]).numpy()
    y = before(torch.cat([b for b, _ in batches])).detach().numpy()[:, [1, 3]]
    found, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    np.testing.assert_allclose(after[1].weight.detach().numpy(), found[:-1].T, atol=0.02)  # but for the ridge
    np.testing.assert_allclose(after[1].bias.detach().numpy(), found[-1], atol=0.02)


def test_errors_of_early_layers_reach_those_fitted_later() -> None:
    net = network(padding=1)
    pruned = without_first(net, 4)
    x = images()[0][0]
    with torch.no_grad():
        alone, both = copy.deepcopy(pruned), copy.deepcopy(pruned)
        reconstruct(net, alone, {"2": torch.arange(6)}, images)
        reconstruct(net, both, {"2": torch.arange(6), "5": torch.arange(5)}, images)
        assert (both(x) - net(x)).norm() < (alone(x) - net(x)).norm() < (pruned(x) - net(x)).norm()


def test_what_computes_its_own_way_is_not_fitted() -> None:
    class Same(nn.Conv2d):
        pass

    assert can_fit(nn.Linear(2, 2))
    assert can_fit(nn.Conv2d(2, 2, 3))
    assert not any(map(can_fit, (Same(2, 2, 3), nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 2, 3, padding="same"), nn.ReLU())))
