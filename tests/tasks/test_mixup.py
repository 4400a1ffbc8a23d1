"""``mixup_alpha`` is the parameter of one Beta distribution, of images and losses alike, whatever the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from planish.artifact import InputSpec, Source
from planish.data.augmentation.mixing import Mixed
from planish.errors import TrainingError
from planish.models.zoo import build
from planish.task import AugmentSettings
from planish.tasks import task_for

SPEC, SIDE = InputSpec(1, 32, 32), 32


def task(name: str) -> Any:
    return task_for(name, {}, ("a", "b"))


def targets_of(name: str, count: int) -> Any:
    if name == "classification":
        return torch.arange(count) % 2
    if name == "semantic":
        return torch.randint(0, 2, (count, SIDE, SIDE))
    boxes = [{"boxes": torch.tensor([[0.1, 0.1, 0.6, 0.7]]), "labels": torch.tensor([i % 2])} for i in range(count)]
    return boxes if name == "detection" else [t | {"masks": torch.ones(1, SIDE, SIDE, dtype=torch.uint8)} for t in boxes]


NAMES = ["classification", "detection", "instance", "semantic"]


@pytest.mark.parametrize("alpha", [0.2, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_of_beta_alpha_alpha(name: str, alpha: float) -> None:
    images = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8)
    images[0] = 255
    change = task(name).augment(SPEC, AugmentSettings("none", mixup_alpha=alpha))
    generator = torch.Generator().manual_seed(0)
    seen = [float(change(images, targets_of(name, 2), generator)[0][0].mean()) / 255 for _ in range(400)]
    assert scipy.stats.kstest(seen, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", NAMES[1:])
def test_losses_are_weighted_as_images_are(name: str) -> None:
    torch.manual_seed(0)
    network = build(Source("resnet8", 2, 1, task=name, strides=(4, 8)))
    generator = torch.Generator().manual_seed(3)
    change = task(name).augment(SPEC, AugmentSettings("none", mixup_alpha=1.0))
    images, mixed = change(torch.randint(0, 256, (4, 1, SIDE, SIDE), dtype=torch.uint8), targets_of(name, 4), generator)
    assert isinstance(mixed, Mixed)
    outputs = network.eval()(images / 255)
    own = network.loss
    expected = mixed.weight * own(outputs, mixed.first) + (1 - mixed.weight) * own(outputs, mixed.second)
    torch.testing.assert_close(task(name).loss(network, outputs, mixed), expected)
    with_one_network_of_two_losses(name, network, outputs, mixed)


def with_one_network_of_two_losses(name: str, network: nn.Module, outputs: Any, mixed: Mixed) -> None:
    """At weight 1 the second target has no say."""
    first = task(name).loss(network, outputs, mixed._replace(weight=1.0))
    torch.testing.assert_close(first, network.loss(outputs, mixed.first))  # type: ignore[operator]


def test_a_classifiers_soft_targets_are_the_same_formula() -> None:
    """Cross-entropy is linear in the target: torchvision's soft labels give what the weighted sum of two losses gives."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8)
    images[0] = 255
    blended, soft = task("classification").augment(SPEC, AugmentSettings("none", mixup_alpha=1.0))(images, torch.tensor([0, 1]), generator)
    weight = float(blended[0].mean()) / 255
    np.testing.assert_allclose(soft[0], [weight, 1 - weight], atol=1e-5)
    logits = torch.randn(2, 2)
    own = torch.nn.functional.cross_entropy
    expected = weight * own(logits, torch.tensor([0, 1])) + (1 - weight) * own(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(task("classification").loss(nn.Identity(), logits, soft), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("detection", {"cutmix_alpha": 1.0}),
        ("detection", {"copy_paste": 0.5}),
        ("semantic", {"cutmix_alpha": 1.0}),
        ("semantic", {"copy_paste": 0.5}),
        ("classification", {"mosaic": 0.5}),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=f"{next(iter(settings))}=.* for {name}"):
        task(name).augment(SPEC, AugmentSettings("none", **settings))


def test_mosaics_of_label_maps() -> None:
    images = torch.zeros(4, 1, SIDE, SIDE, dtype=torch.uint8)
    images[2:] = 255
    maps = (images[:, 0] > 0).long()
    changed, moved = task("semantic").augment(SPEC, AugmentSettings("none", mosaic=1.0))(images, maps, torch.Generator().manual_seed(0))
    assert torch.equal((changed[:, 0] > 127).long()[moved < 2], moved[moved < 2])
    assert moved.float().std() > 0
