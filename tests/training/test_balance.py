"""Unbalanced classes, and large weights: what the settings against them do to a training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from planish.data.class_balance import describe_imbalance
from planish.errors import TrainingError
from planish.evaluation.torch_predictor import TorchPredictor
from planish.tasks import Classification
from planish.training import FitSettings, fit
from planish.training.batches import order_of
from planish.training.fit import FitRun

from .conftest import PREPROCESSING, SPEC, Quarters, QuarterTask
from .test_fit import QUICK

BALANCED = FitSettings(sampler="balanced")


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200), st.integers(0, 5))
def test_the_balanced_sampler_shows_classes_equally_often_and_the_images_of_one_too(labels: list[int], epoch: int) -> None:
    targets = np.array(labels)
    order = order_of(targets, len(targets), BALANCED, epoch)
    assert len(order) == len(targets)
    shown = np.bincount(order, minlength=len(targets))
    by_class = [shown[targets == c] for c in np.unique(targets)]
    assert np.ptp([images.sum() for images in by_class]) <= 1
    assert max(np.ptp(images) for images in by_class) <= 1


def test_the_order_depends_on_seed_and_epoch_and_is_mixed() -> None:
    targets = np.repeat([0, 1], [900, 100])
    order = order_of(targets, 1000, BALANCED, 1)
    assert (order == order_of(targets, 1000, BALANCED, 1)).all()
    assert (order != order_of(targets, 1000, BALANCED, 2)).any()
    assert (order != order_of(targets, 1000, FitSettings(sampler="balanced", seed=1), 1)).any()
    assert 30 < targets[order][:100].sum() < 70
    frequent = [np.unique(shown[targets[shown] == 0]) for shown in (order, order_of(targets, 1000, BALANCED, 2))]
    assert [len(images) for images in frequent] == [500, 500], "none twice before all were seen"
    assert 200 < len(np.intersect1d(*frequent)) < 350, "another epoch shows others"


def test_the_shuffled_order_is_what_it_always_was() -> None:
    order = order_of(np.zeros(50, int), 50, FitSettings(seed=3), 2)
    assert (order == np.random.default_rng((3, 2)).permutation(50)).all()


def test_targets_without_classes_cannot_be_balanced() -> None:
    with pytest.raises(TrainingError, match="balanced sampler"):
        order_of(np.zeros((4, 4)), 4, BALANCED, 1)


def test_a_training_with_the_balanced_sampler_sees_rare_classes_as_often(network: nn.Module) -> None:
    train = Quarters(100, 0)
    train.targets = np.repeat([0, 1, 2, 3], [70, 20, 8, 2])
    task = QuarterTask({"train": train, "validation": Quarters(8, 1)})
    fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1, "sampler": "balanced"}))
    assert np.bincount(torch.cat([targets for _, targets in task.seen])).tolist() == [25] * 4


class FaintQuarters(Quarters):
    """Mostly of one class, and so faint that where in doubt the frequent class is the better guess."""

    def __post_init__(self) -> None:
        self.targets = np.random.default_rng(self.seed).choice(4, self.count, p=[0.85, 0.05, 0.05, 0.05])


@pytest.mark.parametrize(
    ("more", "metric"),
    [
        ({"class_weights": "balanced"}, "accuracy"),
        ({"sampler": "balanced"}, "accuracy"),
        ({"logit_adjustment": 1.0}, "accuracy"),
        ({}, "balanced-accuracy"),
    ],
)
def test_rare_classes_are_recognised_more_often(network: nn.Module, more: dict[str, Any], metric: str) -> None:
    splits = {"train": FaintQuarters(400, 0), "validation": FaintQuarters(400, 10)}
    plain = Classification(splits, ("a", "b", "c", "d"))
    chosen = plain.with_metric(metric)
    validation = splits["validation"]

    def recall_of_rare(settings: FitSettings, task: Classification) -> float:
        module = fit(network, task, SPEC, PREPROCESSING, settings, run=FitRun(validate=False)).module
        preds = TorchPredictor(module, PREPROCESSING)(validation.images(SPEC, PREPROCESSING))["logits"].argmax(1)
        return float(np.mean((preds == validation.targets)[validation.targets > 0]))

    assert recall_of_rare(FitSettings(**QUICK | more), chosen) > recall_of_rare(FitSettings(**QUICK), plain) + 0.2


def test_the_default_adjustment_is_for_unbalanced_classes_and_yields_to_other_settings() -> None:
    even, uneven = (Quarters(100, 0) for _ in range(2))
    even.targets, uneven.targets = np.arange(100) % 4, np.repeat([0, 1, 2, 3], [70, 20, 8, 2])
    outputs, targets = torch.zeros(8, 4), torch.arange(8) % 4
    log_shares = np.log([0.7, 0.2, 0.08, 0.02])

    def loss(split: Quarters, metric: str, **settings: Any) -> float:
        task = Classification({"train": split}, ("a", "b", "c", "d")).with_metric(metric)
        return task.loss(nn.Identity(), outputs, targets, FitSettings(**settings).loss_settings).item()

    assert loss(uneven, "balanced-accuracy") == pytest.approx(-log_shares.mean()), (
        "the bias is all that speaks, and it is that of the shares"
    )
    assert loss(uneven, "balanced-accuracy", logit_adjustment=0.5) == pytest.approx(
        np.log(np.exp(log_shares / 2).sum()) - log_shares.mean() / 2
    )
    plain = [
        loss(uneven, "accuracy"),
        loss(uneven, "recall:d"),
        loss(uneven, "macro-f1"),
        loss(even, "balanced-accuracy"),
        loss(uneven, "balanced-accuracy", logit_adjustment=0),
        loss(uneven, "balanced-accuracy", sampler="balanced"),
    ]
    assert plain == pytest.approx([np.log(4)] * 6)


@pytest.mark.parametrize(("counts", "words"), [((57, 27, 12, 4), "57 % of the training images are of a, 4 % of d"), ((4, 1, 1, 0), "")])
def test_unbalanced_classes_are_described(counts: tuple[int, ...], words: str) -> None:
    assert describe_imbalance(np.repeat(range(4), counts), ("a", "b", "c", "d")) == words


def test_l1_is_added_to_the_loss_for_weights_only(task: QuarterTask, network: nn.Module) -> None:
    weights = sum(m.weight.abs().sum().item() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    quick = QUICK | {"epochs": 1, "learning_rate": 1e-12}
    with_l1, without = (fit(network, task, SPEC, PREPROCESSING, FitSettings(**quick, l1=l1)).history[0].train_loss for l1 in (0.01, 0.0))
    assert with_l1 - without == pytest.approx(0.01 * weights, rel=1e-4)


def test_l1_shrinks_weights(task: QuarterTask, network: nn.Module) -> None:
    def weights(l1: float) -> torch.Tensor:
        module = fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"l1": l1, "weight_decay": 0.0})).module
        return torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim > 1]).abs()

    assert weights(0.01).median() < 0.7 * weights(0.0).median()


def test_l1_of_a_network_whose_weights_are_frozen_is_nothing(task: QuarterTask, network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.requires_grad = parameter.ndim == 1
    with_l1, without = (fit(network, task, SPEC, PREPROCESSING, FitSettings(**QUICK | {"epochs": 1, "l1": l1})) for l1 in (0.1, 0.0))
    assert with_l1.history[0].train_loss == without.history[0].train_loss
