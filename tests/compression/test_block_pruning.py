"""Blocks that can go: found whatever the code looks like, exact, the least important first."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pruning_nets import ChannelShuffle, Concat, randomised
from test_channel_pruning import TASK, artifact
from torch import Tensor, nn

from planish.artifact import Artifact
from planish.compression import BlockPruning, ChannelPruning
from planish.compression.graph.residual_blocks import find_blocks
from planish.errors import PlanError, TechniqueError
from planish.plan import Plan


class Branch(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class PostActivation(Branch):
    """ResNet's: the sum in place, then ReLU, which changes nothing where the input came out of one."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        out += F.dropout(x, 0.5, False)
        return F.relu(out)


class Signed(Branch):
    """Hands on what may be negative."""

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x - 1


class Nested(Branch):
    """A residual block whose branch is one as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Branch()

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.inner(self.conv(x)))


class Scaled(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + self.branch(x)


class Twice(Branch):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) + x


class Shared(nn.Module):
    """One block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Branch()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Chain(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 3), nn.Sequential(*blocks), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((Branch(), Branch()), ["blocks.0", "blocks.1"]),
        ((Branch(), PostActivation()), ["blocks.0"]),
        ((nn.ReLU(), PostActivation()), ["blocks.1"]),
        ((Signed(),), []),
        ((nn.ReLU(), Signed(), nn.Sequential(Branch())), ["blocks.2.0"]),
        ((Nested(),), ["blocks.0"]),
        ((Scaled(), Twice()), []),
        ((Shared(),), []),
        ((nn.Identity(), nn.BatchNorm2d(8)), []),
    ],
)
def test_what_a_block_is(blocks: Any, expected: list[str]) -> None:
    assert sorted(find_blocks(randomised(Chain(*blocks)), IMAGES)) == expected


def test_a_removed_block_equals_one_whose_branch_is_zero() -> None:
    net = randomised(Chain(nn.ReLU(), PostActivation(), Branch(), Nested()))
    assert len(find_blocks(net, IMAGES)) == 3
    after = BlockPruning(pruning_ratio=1, recalibrate=False).apply(artifact(net), TASK)
    for name in ("blocks.1", "blocks.2", "blocks.3"):
        norm: Any = net.get_submodule(name).norm
        norm.weight.data.zero_()
        norm.bias.data.zero_()
    with torch.no_grad():
        torch.testing.assert_close(after.module(IMAGES), net(IMAGES), rtol=0, atol=0)
    assert sum(p.numel() for p in after.module.parameters()) == 8 * 27 + 8 + 8 * 5 + 5


def test_a_block_is_removed_under_all_its_names() -> None:
    net = randomised(Chain(Branch(), Branch()))
    net.first = net.blocks[0]  # registered twice
    removed = BlockPruning(pruning_ratio=1).apply(artifact(net), TASK).module
    assert isinstance(removed.first, nn.Identity)
    assert isinstance(removed.blocks[0], nn.Identity)
    other = randomised(Chain(Branch(), Branch()))
    other._modules = {"first": other.blocks[0], **other._modules}  # and found under the other name
    assert isinstance(BlockPruning(pruning_ratio=1).apply(artifact(other), TASK).module.blocks[0], nn.Identity)


def faint(*places: int) -> Artifact:
    """Six blocks, of which those do next to nothing."""
    net = randomised(Chain(*(Branch() for _ in range(6))))
    for place in places:
        net.blocks[place].norm.weight.data *= 1e-4
        net.blocks[place].norm.running_mean.zero_()
        net.blocks[place].norm.bias.data *= 1e-4
    return artifact(net)


@pytest.mark.parametrize("importance", ["loss", "output"])
def test_the_least_important_go(importance: Any) -> None:
    before = faint(1, 4)
    answers = {len(images): before.module(images) for images, _ in batches(before)}  # of noise: the network itself says what is right
    task: Any = SimpleNamespace(
        split=TASK.split, batch_targets=TASK.batch_targets, loss=lambda network, outputs, _: F.mse_loss(outputs, answers[len(outputs)])
    )
    after = BlockPruning(pruning_ratio=1 / 3, importance=importance).apply(before, task)
    assert after.lineage.steps[-1].structure == {"removed": ["blocks.1", "blocks.4"]}
    assert "2 of 6 blocks: blocks.1, blocks.4; MACs" in after.lineage.steps[-1].notes
    assert isinstance(before.module.blocks[1], Branch)


def batches(before: Artifact) -> Any:
    from planish.compression.calibration import calibration_batches

    return calibration_batches(before, TASK)()


def test_it_is_rebuilt_and_pruned_further() -> None:
    before = replace(faint(2), module=faint(2).module.train())
    after = Plan(BlockPruning(pruning_ratio=0.1, importance="output"), ChannelPruning(pruning_ratio=0.5, round_to=2)).apply(before, TASK)
    assert isinstance(after.module.blocks[2], nn.Identity)
    assert after.module.training
    rebuilt = Chain(*(Branch() for _ in range(6)))
    for step, kind in zip(after.lineage.steps, (BlockPruning, ChannelPruning), strict=True):
        rebuilt = kind.rebuild(rebuilt, json.loads(json.dumps(step.structure)))
    rebuilt.load_state_dict(after.module.state_dict())
    assert torch.equal(rebuilt.eval()(IMAGES), after.module.eval()(IMAGES))


@pytest.mark.parametrize("kind", [Concat, ChannelShuffle])
def test_networks_without_such_blocks_are_refused(kind: Any) -> None:
    with pytest.raises(TechniqueError, match="no residual block"):
        BlockPruning(pruning_ratio=0.5).apply(artifact(randomised(kind())), TASK)
    with pytest.raises(PlanError, match="pruning_ratio"):
        Plan.from_dicts([{"name": "block_pruning", "pruning_ratio": 0}])


def test_outputs_that_are_not_numbers() -> None:
    before = faint()
    before.module.head.weight.data[0, 0] = torch.nan
    with pytest.raises(TechniqueError, match="not finite"):
        BlockPruning(pruning_ratio=0.5).apply(before, TASK)
