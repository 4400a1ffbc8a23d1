"""Muon: orthogonal updates of weight matrices, and ordinary SGD for everything else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from planish.artifact import InputSpec
from planish.training.optimizers import Muon, optimizer_of, orthogonalised
from planish.training.schedules.freezing import LayerFreezer
from planish.training.settings import FitSettings

SPEC = InputSpec(3, 16, 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, groups=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip


def made(module: nn.Module, **changes: object) -> torch.optim.Optimizer:
    settings = FitSettings(**{"optimizer": "muon", "learning_rate": 0.1, "muon_rate": 0.05, "weight_decay": 0.01} | changes)  # type: ignore[arg-type]
    optimizer = optimizer_of(module, SPEC, settings, LayerFreezer(module, SPEC, "none", 1.0))
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * group["factor"]
    return optimizer


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(torch.randn(8, 3, 16, 16)), torch.randint(5, (8,))).backward()
    optimizer.step()


@pytest.mark.parametrize("shape", [(3, 8, 30), (2, 30, 8), (5, 1, 9), (1, 16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    found = orthogonalised(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)  # the nearest orthogonal matrix
    assert torch.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_weights_turn_by_the_rate_and_keep_their_norm() -> None:
    module = network()
    before, optimizer = copy.deepcopy(module), made(module)
    step(module, optimizer, 1)
    for number in (0, 3, 6, 10):
        old, new = before[number].weight, module[number].weight
        assert new.norm().item() == pytest.approx(old.norm().item(), rel=1e-5)
        assert ((new - old).norm() / old.norm()).item() == pytest.approx(0.05, rel=0.05)
    for channel in range(16):  # each filter of a depthwise convolution is a matrix of its own
        old, new = before[3].weight[channel].flatten(), module[3].weight[channel].flatten()
        assert (new - old).norm() > 0.01 * old.norm()


def test_all_other_parameters_are_updated_by_sgd() -> None:
    module = network()
    other = copy.deepcopy(module)
    muon, sgd = made(module), made(other, optimizer="sgd")
    assert isinstance(muon, Muon)
    for seed in range(3):
        for weight in (0, 3, 6, 10):  # so that both have the same gradients
            module[weight].weight.data.copy_(other[weight].weight.data)
        for (_, p), (_, q) in zip(module.named_buffers(), other.named_buffers(), strict=True):
            p.copy_(q)
        step(module, muon, seed)
        step(other, sgd, seed)
    for (name, p), (_, q) in zip(module.named_parameters(), other.named_parameters(), strict=True):
        same = name not in ("0.weight", "3.weight", "6.weight", "10.weight")
        assert torch.allclose(p, q, atol=1e-6) == same, name


def test_weights_of_zeros_begin_to_move() -> None:
    module = network()
    nn.init.zeros_(module[6].weight)
    step(module, made(module), 1)
    assert module[6].weight.abs().sum() > 0
    assert module[6].weight.isfinite().all()


def test_frozen_weights_stay() -> None:
    module = network()
    optimizer = made(module)
    module[0].weight.requires_grad_(False)
    before = module[0].weight.clone()
    step(module, optimizer, 1)
    torch.testing.assert_close(module[0].weight, before)


def test_its_state_can_be_saved_and_restored() -> None:
    module = network()
    optimizer = made(module)
    step(module, optimizer, 1)
    saved, again = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(module)
    restored = made(again)
    restored.load_state_dict(saved)
    step(module, optimizer, 2)
    step(again, restored, 2)
    for p, q in zip(module.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p, q)
