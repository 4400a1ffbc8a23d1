"""Outputs computed from a change on are those of the whole network, to the last bit, and take less work."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.models.zoo import create


class InPlace(nn.Module):
    """A block whose activation changes what the shortcut reads."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(x)) + x


class Shared(nn.Module):
    """One layer for two maps, in a dict, and a weight that is read without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 2, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        small = nn.functional.avg_pool2d(x, 2)
        return {"large": self.head(x), "small": self.head(small), "sum": x.mean((2, 3))[:, :2] @ self.unused.weight}


class Hidden(nn.Module):
    """Reads the map in a way that no record of function calls shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        with torch._C.DisableTorchFunction():
            z = y + 1
        return self.second(x) + z


def odd() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), InPlace(), nn.Conv2d(4, 4, 3), InPlace(), Shared())


def zoo(name: str, task: str = "classification", size: int = 32) -> Callable[[], nn.Module]:
    return lambda: create(name, task=task, num_classes=3, channels=3, image_size=size).module


NETWORKS = {
    "odd": odd,
    "hidden": Hidden,
    "resnet8": zoo("resnet8"),
    "mobilenet_v2": zoo("torchvision:mobilenet_v2"),
    "densenet121": zoo("torchvision:densenet121"),
    "shufflenet": zoo("torchvision:shufflenet_v2_x0_5"),
    "efficientnet": zoo("timm:efficientnet_lite0"),
    "convnext": zoo("timm:convnext_atto"),
    "detector": zoo("mobilenet_v2", "detection"),
    "segmentation": zoo("resnet18", "semantic_segmentation"),
}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Some of its floating-point parameters and buffers, from the first to the last."""
    found = {n: t for n, t in itertools.chain(module.named_parameters(), module.named_buffers()) if t.is_floating_point()}
    names = list(found)[:: max(1, len(found) // 6)]
    return {n: found[n] for n in names}


def equal(a: object, b: object) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True) if isinstance(x, Tensor))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outputs_are_those_of_the_whole_network(name: str) -> None:
    network = NETWORKS[name]().eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = network(images)
    cache = PrefixCache(network, torch.split(images, 2), CallRecord(network, images[:1]))
    order = sorted(tensors(network), key=lambda tensor: cache.position([tensor]))
    for changing in (*order, order[0], order[-1]):  # and back to the first
        cache.advance(cache.position([changing]))
        changed = copy.deepcopy(network)
        tensors(changed)[changing].mul_(1.5).add_(0.1)
        found = cache.outputs(changed, cache.position([changing]))
        for batch, outputs in zip(torch.split(images, 2), found, strict=True):
            assert equal(outputs, changed(batch)), changing
    assert equal(network(images), before)


def macs(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "shufflenet", "efficientnet", "detector"])
@torch.no_grad()
def test_a_change_of_the_middle_runs_the_second_half_alone(name: str) -> None:
    """The multiplications are those of the convolutions from the changed one on, in the order in which they run."""
    network = NETWORKS[name]().eval()
    x = torch.rand(1, 3, 32, 32)
    each: list[tuple[str, int]] = []
    for layer_name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(
                lambda m, _, output, n=layer_name: each.append((n, output.numel() * m.weight[0].numel()))  # type: ignore[misc]
            )
    network(x)
    convs, whole = list(each), macs(lambda: network(x))
    middle = len(convs) // 2
    cache = PrefixCache(network, [x], CallRecord(network, x))
    position = cache.position([f"{convs[middle][0]}.weight"])
    cache.advance(position)
    assert macs(lambda: cache.outputs(network, position)) == whole - sum(count for _, count in convs[:middle])


@torch.no_grad()
def test_memory_is_bounded() -> None:
    network = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))).eval()
    images = torch.rand(4, 3, 16, 16)
    limit = images.numel() * 4
    for most_bytes, fraction in ((limit, 1), (limit - 1, 4)):
        cache = PrefixCache(network, [images], CallRecord(network, images[:1]), most_bytes)
        position = cache.position(["3.weight"])
        cache.advance(position)
        assert sum(value.numel() * 4 for kept in cache._kept for value in kept.values()) <= most_bytes
        assert macs(lambda: cache.outputs(network, position)) == macs(lambda: network(images)) * fraction / 4  # noqa: B023
