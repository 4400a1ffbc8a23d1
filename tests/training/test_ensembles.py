"""Ensembles, views and soups, against their formulas written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from planish.data.normalisation import Normalise
from planish.errors import ModelError
from planish.export import ToOnnx
from planish.export.runtimes.registry import load
from planish.models import create
from planish.settings import ModelSettings
from planish.task import Task
from planish.testing import write_shapes
from planish.training import FitSettings
from planish.training.ensembles import Ensemble, Views, greedy_soup, uniform_soup
from planish.training.prepare import prepare_job
from planish.training.schedules.averaging import fit_statistics

from .conftest import PREPROCESSING, SIZE, SPEC


def networks(count: int) -> list[nn.Module]:
    torch.manual_seed(1)
    return [create("resnet8x0.5", num_classes=4, channels=1, image_size=SIZE).module.eval() for _ in range(count)]


def nothing(_: nn.Module) -> None:
    """Networks without batch norm need no statistics."""


def test_an_ensemble_is_the_mean_of_the_probabilities():
    members, x = networks(3), torch.randn(5, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = sum(member(x).double().softmax(1) for member in members) / 3
        found = Ensemble(members)(x)
    torch.testing.assert_close(found.double().exp(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.softmax(1), found.exp())  # logits that are log-probabilities already
    assert torch.isfinite(Ensemble([nn.Linear(1, 2)] * 2)(torch.tensor([[1e4]]))).all()  # a probability may be nothing


def test_views_are_the_image_moved_and_mirrored():
    network, x = networks(1)[0], torch.randn(3, 1, SIZE, SIZE)
    with np.errstate(all="raise"), torch.no_grad():
        pixels = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
        moved = [pixels[:, :, 2 + y : 2 + y + SIZE, 2 + z : 2 + z + SIZE] for y, z in ((0, 0), (-2, 0), (2, 0), (0, -2), (0, 2))]
        every = [torch.from_numpy(np.ascontiguousarray(view)) for m in moved for view in (m, m[..., ::-1])]
        expected = sum(network(view).softmax(1) for view in every) / 10
        torch.testing.assert_close(Views(network, flip=True, shift=2)(x).exp(), expected, rtol=1e-4, atol=1e-6)
        mirrored = (network(x).softmax(1) + network(x.flip(3)).softmax(1)) / 2
        torch.testing.assert_close(Views(network)(x).exp(), mirrored, rtol=1e-4, atol=1e-6)
        shifts = sum(network(view).softmax(1) for view in every[::2]) / 5
        torch.testing.assert_close(Views(network, flip=False, shift=2)(x).exp(), shifts, rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="another view"):
        Views(network, flip=False)


def test_a_file_holds_the_whole_ensemble_and_all_views(tmp_path):
    job = prepare_job(write_shapes(tmp_path / "shapes", per_class=12), ModelSettings("resnet8x0.5"))
    other = prepare_job(tmp_path / "shapes", ModelSettings("resnet8x0.5"), weights_seed=5)
    both = Ensemble([Views(job.artifact.module, shift=1), Views(other.artifact.module, shift=1)])
    file = ToOnnx().apply(replace(job.artifact, module=both.eval()), job.task).files[0]
    images = job.task.split("test").images(job.artifact.input_spec, job.artifact.preprocessing)[:7]
    with torch.no_grad():
        expected = both(Normalise.of(job.artifact.preprocessing)(torch.from_numpy(np.array(images))))
    for count in (7, 1):
        found = load((file,), "onnxruntime")(np.array(images[:count]))["logits"]
        np.testing.assert_allclose(found, expected[:count], rtol=1e-3, atol=1e-3)


def test_a_uniform_soup_is_the_mean_of_the_weights_with_statistics_of_its_own(task: Task):
    members = networks(3)
    before = [copy.deepcopy(member.state_dict()) for member in members]
    soup = uniform_soup(members, lambda m: fit_statistics(m, task, SPEC, PREPROCESSING, FitSettings(batch_size=80, augmentation="none")))
    assert soup.members == (0, 1, 2)
    assert not soup.module.training
    for name, parameter in soup.module.named_parameters():
        np.testing.assert_allclose(parameter.detach(), np.mean([state[name].numpy() for state in before], axis=0), rtol=1e-5, atol=1e-7)
    assert all(torch.equal(value, old[name]) for m, old in zip(members, before, strict=True) for name, value in m.state_dict().items())
    # the first layer's statistics are those of its own outputs on the training images: two batches of 80
    seen: list[torch.Tensor] = []
    soup.module.bn1.register_forward_hook(lambda layer, given, out: seen.append(given[0]))
    images = torch.from_numpy(task.split("train").images(SPEC, PREPROCESSING))
    with torch.no_grad():
        soup.module(Normalise.of(PREPROCESSING)(images))
    torch.testing.assert_close(soup.module.bn1.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


class Number(nn.Module):
    """A network of one weight."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))


@pytest.mark.parametrize(
    ("values", "members", "expected"),
    [
        ([3.0, 0.5, -1.2], (1, 2), -0.35),  # 0.5, then with -1.2: nearer to 0; with 3 further from it
        ([1.0, 5.0, 6.0], (0,), 1.0),
        ([2.0, -2.0], (0, 1), 0.0),
    ],
)
def test_a_greedy_soup_takes_what_does_not_lower_the_score(values, members, expected):
    soup = greedy_soup([Number(v) for v in values], lambda m: -abs(m.weight.item()), nothing)
    assert soup.members == members
    assert soup.module.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_a_greedy_soup_is_never_worse_than_its_best_member(seed):
    rng = np.random.default_rng(seed)
    members = [Number(v) for v in rng.normal(size=6)]

    def score(module: Number) -> float:
        return float(np.sin(7 * module.weight.item()))

    assert score(greedy_soup(members, score, nothing).module) >= max(score(m) for m in members)
