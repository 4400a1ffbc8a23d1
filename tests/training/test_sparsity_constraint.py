"""What training keeps of pruned and shared weights, against training the codebook itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from planish.artifact import Step
from planish.training import Distill
from planish.training.sparsity_constraint import SparsityConstraint


def test_shared_weights_take_the_mean_of_their_steps() -> None:
    """Momentum and all, the weights move as a codebook does whose gradients are means over the weights that use an entry."""
    torch.manual_seed(0)
    index = torch.randint(0, 5, (6, 8))
    codebook = torch.tensor([-0.4, -0.1, 0.0, 0.2, 0.5])
    layer = nn.Linear(8, 6)
    layer.weight.data = codebook[index]
    entries, bias = nn.Parameter(codebook.clone()), nn.Parameter(layer.bias.detach().clone())
    keep = SparsityConstraint(layer, "shared")
    ours = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    theirs = torch.optim.SGD([entries, bias], lr=0.1, momentum=0.9, weight_decay=0.01)
    counts = torch.bincount(index.flatten())
    for _ in range(5):
        x, y = torch.randn(16, 8), torch.randn(16, 6)
        ours.zero_grad()
        functional.mse_loss(layer(x), y).backward()
        ours.step()
        keep()
        theirs.zero_grad()
        functional.mse_loss(functional.linear(x, entries[index], bias), y).backward()
        assert entries.grad is not None
        entries.grad /= counts
        entries.grad[2] = 0  # zero stays
        theirs.step()
        torch.testing.assert_close(layer.weight.detach(), entries.detach()[index])
        assert len(layer.weight.unique()) == 5


@pytest.mark.parametrize("weights", ["dense", "sparse", "n:m"])
def test_pruned_weights_stay_zero(artifact, task, weights) -> None:
    layers = [m for m in artifact.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.weight.data *= torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    before = [(layer.weight == 0).clone() for layer in layers]
    pruned = replace(artifact, lineage=replace(artifact.lineage, steps=(Step("by hand", {}, {"weights": weights}),)))
    tuned = Distill(epochs=2, batch_size=32, augmentation="none").apply(pruned, task)
    after = [m.weight for m in tuned.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for zeros, weight, layer in zip(before, after, layers, strict=True):
        assert torch.equal(weight == 0, zeros) == (weights != "dense")
        assert not torch.equal(weight, layer.weight)


def test_the_average_of_a_training_keeps_them_too(network, task) -> None:
    from planish.training.fit import fit
    from planish.training.settings import FitSettings

    from .conftest import PREPROCESSING, SPEC

    network.conv1.weight.data[:2] = 0
    settings = FitSettings(epochs=1, batch_size=32, learning_rate=0.05, augmentation="none", ema_decay=0.9)
    fitted = fit(network, task, SPEC, PREPROCESSING, settings, weights="sparse")
    assert not fitted.module.conv1.weight[:2].any()
    assert fitted.module.conv1.weight[2:].all()
