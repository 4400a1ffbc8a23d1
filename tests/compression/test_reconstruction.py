"""Least squares against what they must find: a layer that can say exactly what it said, and scikit-free normal equations elsewhere."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.reconstruction import reconstruction
from planish.compression.reconstruction.layer_moments import refit
from planish.compression.reconstruction.reconstruction import can_fit, read_only_by_batch_norm, reconstruct
from planish.models.batch_norm import reestimate_batch_norm
from planish.models.zoo import create


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


class Summed(nn.Module):
    """Its convolution's output feeds a sum."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x[:, :1]


def unfolded(layer: nn.Module, given: torch.Tensor) -> np.ndarray:
    """What its weight multiplies, a row a position, made by torch's own ``unfold``."""
    if isinstance(layer, nn.Linear):
        return given.numpy()
    columns = functional.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return columns.transpose(1, 2).flatten(0, 1).numpy()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("plain", {}), ("plain", {"padding": 2, "stride": 2, "dilation": 2}), ("sum", {"padding": 1}), ("norm", {"padding": 1}),
        ("norm and sum", {"padding": 1}), ("flatten", {}),
    ],
)  # fmt: skip
def test_every_layer_gets_the_best_weight_that_its_form_allows(kind: str, options: dict[str, int], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8 * 16, 6, bias=bias) if kind == "flatten" else nn.Conv2d(8, 6, 3, bias=bias, **options)
    size = 4 if kind == "flatten" else 8  # every position is used
    norms = [nn.BatchNorm2d(6)] if kind == "norm" else []
    conv = Summed(nn.Sequential(layer, nn.BatchNorm2d(6))) if kind == "norm and sum" else Summed(layer) if kind == "sum" else layer
    flat = [nn.Flatten()] if kind == "flatten" else []
    before = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *flat, conv, *norms).eval()
    name = next(n for n, m in before.named_modules() if m is layer)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[0].weight[4:] = 0.0  # what is cut
        after[0].bias[4:] = 0.0
    batches = images(40, size)
    reconstruct(before, after, {name: torch.arange(6)}, lambda: batches)
    pixels = torch.cat([batch for batch, _ in batches])
    with torch.no_grad():
        read, wanted = after[: 2 + len(flat)](pixels), layer(before[: 2 + len(flat)](pixels))
        fitted = after.get_submodule(name)
        rows = unfolded(layer, read)
        given = rows @ fitted.weight.flatten(1).T.numpy() + (fitted.bias.numpy() if bias else 0)
    y = (wanted.flatten(2).transpose(1, 2).flatten(0, 1) if wanted.ndim == 4 else wanted).numpy()
    absorbed = "norm" in kind and not bias
    x = np.c_[rows, np.ones(len(rows))] if bias or absorbed else rows
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    error, best = given - y, x @ solution - y
    if absorbed:  # what is left of the mean is taken off by the batch norm
        error = error - error.mean(0)
    assert np.square(error).mean() < 1.05 * np.square(best).mean()  # but for the ridge
    assert np.square(best).mean() > 1e-4, "there is an error to compare"


def test_a_mean_is_absorbed_where_batch_norm_alone_reads_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("followed", "returned", "also_summed", "plain"):
                setattr(self, name, nn.Conv2d(3, 3, 1, bias=False))
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            shape = self.followed(x)
            assert shape.shape[1] == 3
            returned, summed = self.returned(x), self.also_summed(x)
            return self.norm(shape), self.norm(returned), returned, self.norm(summed) + summed, self.plain(x).relu()

    names = ("followed", "returned", "also_summed", "plain")
    assert read_only_by_batch_norm(Net().eval(), names, torch.zeros(1, 3, 4, 4)) == {"followed"}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_a_last_factor_is_fitted_whatever_the_scale_and_mean_of_what_it_reads(scale: float, mean: float) -> None:
    torch.manual_seed(0)
    layer, row = nn.Linear(12, 6), nn.Sequential(nn.Linear(12, 3, bias=False), nn.Linear(3, 6))
    pixels = scale * (torch.randn(512, 12) + mean)
    refit(nn.Sequential(layer), {"0": layer}, {"0": row}, [(pixels, None)])
    with torch.no_grad():
        given, y = row(pixels).numpy(), layer(pixels).numpy()
        x = np.c_[row[0](pixels).numpy(), np.ones(512)]
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    assert np.square(given - y).mean() < 1.02 * np.square(x @ solution - y).mean()


class Hidden(nn.Module):
    """What a layer returned is read as numpy sees it, which no record of torch functions shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(first.relu()) if first.detach().numpy().any() else first
        return self.third(second.relu()) + torch.from_numpy(first.detach().numpy()).mean()


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0", "hidden"])
def test_running_on_from_the_layers_fitted_last_fits_as_well(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    before = (Hidden() if name == "hidden" else create(f"torchvision:{name}", num_classes=5, channels=3, image_size=32).module).eval()
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, 3, 48, 48, generator=generator), None) for _ in range(2)]
    reestimate_batch_norm(before, [batch for batch, _ in batches])
    after = copy.deepcopy(before)
    outputs = {n: torch.arange(len(m.weight)) for n, m in after.named_modules() if can_fit(m)}
    with torch.no_grad():
        for layer in outputs:
            after.get_submodule(layer).weight[::3] = 0.0
    whole = copy.deepcopy(after)
    calls = dict.fromkeys(("cached", "whole"), 0)

    def count(kind: str) -> None:
        calls[kind] += 1

    first = next(iter(outputs))
    after.get_submodule(first).register_forward_hook(lambda *_: count("cached"))
    whole.get_submodule(first).register_forward_hook(lambda *_: count("whole"))
    reconstruct(before, after, outputs, lambda: batches)
    monkeypatch.setattr(reconstruction, "PrefixCache", partial(PrefixCache, most_bytes=-1))
    reconstruct(before, whole, outputs, lambda: batches)
    if name == "hidden":
        assert all(torch.equal(value, other) for value, other in zip(after.state_dict().values(), whole.state_dict().values(), strict=True))
        return
    assert calls["cached"] < calls["whole"] / 3
    x = torch.cat([batch for batch, _ in batches])
    with torch.no_grad():
        error, of_whole = (after(x) - before(x)).norm(), (whole(x) - before(x)).norm()
    assert error < 1.1 * of_whole  # not equal: statistics are re-estimated behind layers in eval mode
