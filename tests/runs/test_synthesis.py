"""Images synthesized from a network, against the statistics and classes that they are to have."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from planish.artifact import InputSpec, Preprocessing
from planish.runs.networks.synthesis import dead_leaves, norms_of, synthesize

SPEC = InputSpec(3, 24, 20)
PREPROCESSING = Preprocessing(24, "squash", (0.5,) * 3, (0.25,) * 3)


def network(classes: int = 5) -> nn.Sequential:
    """A network whose statistics are those of smooth dark images."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12, momentum=None), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
    )  # fmt: skip
    with torch.no_grad():
        made[-1].weight.mul_(6)
        for _ in range(4):
            made(nn.functional.interpolate(torch.rand(64, 3, 4, 4) - 2, (SPEC.height, SPEC.width), mode="bilinear"))
    return made.eval()


def distance(made: nn.Module, images: np.ndarray) -> float:
    """Mean squared difference of channel means from the expected ones, in expected variances."""
    seen: list[torch.Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(
            lambda norm, inputs: seen.append(((inputs[0].mean((0, 2, 3)) - norm.running_mean) ** 2 / norm.running_var).mean())
        )
        for norm in norms_of(made)
    ]
    with torch.no_grad():
        made(torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25))
    for hook in hooks:
        hook.remove()
    return float(torch.stack(seen).mean())


def test_statistics_and_classes_are_those_of_the_network() -> None:
    made, leaves = network(), dead_leaves(20, SPEC, seed=0)
    before = copy.deepcopy(made.state_dict())
    found = synthesize(made, norms_of(made), leaves, PREPROCESSING, steps=150, seed=0)
    assert found.shape == (20, 24, 20, 3)
    assert found.dtype == np.uint8
    assert distance(made, found) < 0.1 * distance(made, leaves)
    with torch.no_grad():
        answers = made(torch.from_numpy(found).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)).argmax(1)
    assert len(answers.unique()) >= 4, "all classes equally often"
    assert all(torch.equal(values, made.state_dict()[name]) for name, values in before.items())
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert not made.training
    assert np.array_equal(found, synthesize(made, norms_of(made), leaves, PREPROCESSING, steps=150, seed=0))
    assert not np.array_equal(found, synthesize(made, norms_of(made), leaves, PREPROCESSING, steps=150, seed=1))


def test_a_network_without_norms_still_sees_its_classes() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    preprocessing = Preprocessing(24, "squash", (0.5,), (0.25,))
    leaves = dead_leaves(12, InputSpec(1, 24, 24), seed=0)
    found = synthesize(made, [], leaves, preprocessing, steps=100, seed=0)
    with torch.no_grad():
        answers = made(torch.from_numpy(found).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)).argmax(1)
    assert torch.bincount(answers, minlength=3).tolist() == [4, 4, 4]


def test_networks_that_decode_are_matched_by_statistics_alone() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()[:6]

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"maps": self.body(images)}

    made, leaves = Maps().eval(), dead_leaves(8, SPEC, seed=0)
    found = synthesize(made, norms_of(made), leaves, PREPROCESSING, steps=100, seed=0)
    assert distance(made, found) < 0.2 * distance(made, leaves)


@pytest.mark.parametrize("spec", [SPEC, InputSpec(1, 32, 64)])
def test_dead_leaves_have_edges_and_flat_parts(spec: InputSpec) -> None:
    images = dead_leaves(6, spec, seed=3)
    assert images.shape == (6, spec.height, spec.width, spec.channels)
    equal = (np.diff(images.astype(int), axis=2) == 0).all(-1).mean()
    assert 0.3 < equal < 0.97
    assert 90 < images.mean() < 165
    assert len({image.tobytes() for image in images}) == 6
