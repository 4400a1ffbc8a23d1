"""Blocks that others stand in for: found whatever the code looks like, trained alone, chosen within the time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from pruning_nets import randomised
from test_channel_pruning import TASK as CLASSES
from test_channel_pruning import artifact
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.googlenet import Inception

from planish.artifact import Artifact
from planish.compression import BlockReplacement
from planish.compression.graph.call_record import CallRecord
from planish.compression.graph.prefix_cache import PrefixCache
from planish.compression.replacement import block_replacement
from planish.compression.replacement.block_fit import fit_block, maps_of
from planish.compression.replacement.kinds import KINDS, NewBlock, made
from planish.compression.replacement.places import BlockPlace, find_places
from planish.devices.layer_latency import Variant, multiplications
from planish.errors import TechniqueError

TASK: Any = SimpleNamespace(**vars(CLASSES), distillation_loss=lambda network, student, teacher, temperature: F.mse_loss(student, teacher))


def macs_as_time(variants: Sequence[Variant], runtime: str, *, threads: int = 1, batch: int = 1) -> list[float]:
    return [multiplications(v) / 1e6 for v in variants]


@pytest.fixture(autouse=True)
def _macs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_replacement, "layer_latencies", macs_as_time)


class Block(nn.Module):
    """A residual block with a ReLU at its end."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, inside, 3, padding=1, bias=False), nn.BatchNorm2d(inside)
        self.second = nn.Conv2d(inside, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Net(nn.Module):
    """A stem, two residual blocks in a sequence, a block with stride, and one that takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.stage = nn.Sequential(Block(16, 32), Block(16, 32))
        self.down = nn.Conv2d(16, 24, 5, 2, 2)
        self.merge = Merge()
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stage(self.stem(x)))
        return self.head(self.merge(x, torch.relu(x)).mean((2, 3)))


class Merge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(24, 24, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + self.conv(b)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def macs_of(module: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(noise(1, 3, 16, 16))
    return float(counter.get_total_flops())


def test_blocks_of_a_network_as_people_write_them() -> None:
    net = randomised(Net())
    places = {place.name: place for place in find_places(net, noise(2, 3, 16, 16))}
    assert list(places) == ["stem", "stage.0", "stage.1", "down", "merge.conv"]
    assert places["stage.0"] == BlockPlace("stage.0", (16, 16, 16), (16, 16, 16), True)
    assert places["down"].given == (16, 16, 16)
    assert places["down"].made == (24, 8, 8)
    assert places["down"].stride == 2
    assert not places["down"].is_positive


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet18", torchvision.models.resnet.BasicBlock, 8),
        ("resnet50", torchvision.models.resnet.Bottleneck, 16),
        ("mobilenet_v2", torchvision.models.mobilenetv2.InvertedResidual, 17),
        ("mobilenet_v3_small", torchvision.models.mobilenetv3.InvertedResidual, 11),
        ("shufflenet_v2_x0_5", torchvision.models.shufflenetv2.InvertedResidual, 16),
        ("efficientnet_b0", torchvision.models.efficientnet.MBConv, 16),
        ("regnet_y_400mf", torchvision.models.regnet.ResBottleneckBlock, 16),
        ("convnext_tiny", torchvision.models.convnext.CNBlock, 18),
        ("densenet121", torchvision.models.densenet._Transition, 3),
        ("vgg16_bn", nn.Conv2d, 13),
        ("googlenet", Inception, 9),
    ],
)
def test_blocks_of_known_networks(name: str, kind: type[nn.Module], count: int) -> None:
    more = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, num_classes=5, **more).eval()
    places = find_places(net, noise(2, 3, 64, 64))
    assert sum(type(net.get_submodule(place.name)) is kind for place in places) == count
    for place in places:
        found = {each: made(each, net.get_submodule(place.name), place) for each in KINDS}
        for each in filter(None, found.values()):
            with torch.no_grad():
                assert each[0].eval()(noise(2, *place.given)).shape == (2, *place.made)


def test_a_block_is_as_it_was_where_the_replacement_leaves_out_what_does_nothing() -> None:
    x = noise(2, 8, 12, 12)
    large = nn.Sequential(nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Conv2d(8, 8, (1, 5), padding=(0, 2)))
    with torch.no_grad():
        for layer, inside in ((large[0], (slice(2, 5), slice(2, 5))), (large[1], (slice(0, 1), slice(1, 4)))):
            kept = layer.weight[:, :, *inside].clone()
            layer.weight.zero_()
            layer.weight[:, :, *inside] = kept
    attention = torchvision.models.efficientnet.MBConv(
        torchvision.models.efficientnet.MBConvConfig(4, 3, 1, 8, 8, 1), 0.0, nn.BatchNorm2d
    ).eval()
    with torch.no_grad():
        attention.block[2].fc2.weight.zero_()
        attention.block[2].fc2.bias.fill_(100)  # the gate is open
    block = randomised(Block(8, 16))
    with torch.no_grad():
        for tensor in (block.first.weight, block.norm.weight, block.norm.bias, block.norm.running_mean):
            tensor[::2] = 0
    place = BlockPlace("b", (8, 12, 12), (8, 12, 12), False)
    for kind, given in (("small_kernels", large), ("without_attention", attention), ("narrow", block)):
        found = made(kind, given, place)
        assert found is not None
        assert sum(p.numel() for p in found[0].parameters()) < sum(p.numel() for p in given.parameters())
        with torch.no_grad():
            torch.testing.assert_close(found[0].eval()(x), given(x))
        again = made(kind, copy.deepcopy(given), place, found[1])
        assert again is not None
        assert {n: p.shape for n, p in again[0].named_parameters()} == {n: p.shape for n, p in found[0].named_parameters()}


def test_least_squares_find_a_linear_block_without_training() -> None:
    x = noise(256, 8, 12, 12)
    place = BlockPlace("b", (8, 12, 12), (8, 6, 6), False)
    block = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)).eval()
    found = made("plain", block, place)
    assert found is not None
    with torch.no_grad():
        wanted = 3 * block(x) + 1
    assert fit_block(found[0], x, wanted, steps=0) < 1e-3
    assert isinstance(found[0], NewBlock)
    assert not found[0].training


def test_training_brings_a_replacement_closer() -> None:
    x = noise(64, 16, 12, 12).relu()
    block = randomised(Block(16, 32))
    with torch.no_grad():
        wanted = block(x)
    errors = []
    for steps in (0, 150):
        torch.manual_seed(0)
        found = made("narrow", block, BlockPlace("b", (16, 12, 12), (16, 12, 12), True))
        assert found is not None
        errors.append(fit_block(found[0], x, wanted, steps))
    assert errors[1] < 0.7 * errors[0]


def test_maps_are_those_of_the_whole_network() -> None:
    net = randomised(Net())
    batches = [noise(4, 3, 16, 16), noise(4, 3, 16, 16, seed=1)]
    record = CallRecord(net, batches[0][:1])
    cache = PrefixCache(net, batches, record)
    cache.advance(record.calls["stage.1"][0].start)
    given, wanted = maps_of(net, "stage.1", batches, cache)
    with torch.no_grad():
        expected = net.stage[0](net.stem(torch.cat(batches)))
        torch.testing.assert_close(given, expected)
        torch.testing.assert_close(wanted, net.stage[1](expected))


def test_it_is_as_fast_as_was_asked_and_more_alike_the_more_it_is_trained() -> None:
    net = randomised(Net())
    images = noise(16, 3, 16, 16, seed=5)
    distances = []
    for steps in (0, 100):
        result = BlockReplacement(speedup=1.7, steps=steps).apply(artifact(net), TASK)
        assert macs_of(result.module) <= macs_of(net) / 1.7
        with torch.no_grad():
            distances.append(float((result.module(images) - net(images)).square().mean()))
    assert distances[1] < distances[0]
    assert "blocks replaced" in result.lineage.steps[-1].notes


def test_the_block_that_matters_stays() -> None:
    net = randomised(Net())
    with torch.no_grad():
        net.stage[1].second.weight.mul_(1e-4)
        net.stage[1].second.bias.zero_()
    result = BlockReplacement(speedup=1.3, steps=0, kinds=("identity",)).apply(artifact(net), TASK)
    [block] = result.lineage.steps[-1].structure["blocks"]
    assert block["place"]["name"] == "stage.1"
    assert isinstance(result.module.stage[1], nn.Identity)
    assert isinstance(result.module.stage[0], Block)


@pytest.mark.parametrize(
    ("technique", "net", "message"),
    [
        (BlockReplacement(speedup=500, steps=0), Net(), "fastest replacements make"),
        (BlockReplacement(speedup=1.5, kinds=("magic",)), Net(), "no replacement is called 'magic'"),
        (BlockReplacement(speedup=1.5), nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), "no block of this network"),
    ],
)
def test_what_cannot_be_done_is_said(technique: BlockReplacement, net: nn.Module, message: str) -> None:
    given: Artifact = artifact(randomised(net))
    before: Any = copy.deepcopy(net.state_dict())
    with pytest.raises(TechniqueError, match=message):
        technique.apply(given, TASK)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
