from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from export_fakes import PREPROCESSING, SPEC, FakeTask, Images, trained
from pydantic import ValidationError
from torch import nn

from planish.artifact import Artifact, InputSpec
from planish.compression import Resolution
from planish.data.normalisation import Normalise
from planish.errors import TechniqueError


@pytest.fixture(scope="module")
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture(scope="module")
def network(task: FakeTask) -> Artifact:
    return trained(task)


@pytest.mark.parametrize(
    ("side", "scale", "expected"),
    [(32, 0.75, 24), (28, 0.75, 22), (28, 0.5, 14), (224, 0.7, 160), (96, 0.75, 72), (31, 1, 31), (64, 0.99, 64)],
)
def test_sides_are_rounded_to_what_kernels_like(network: Artifact, task: FakeTask, side: int, scale: float, expected: int) -> None:
    start = replace(network, input_spec=InputSpec(3, side, side))
    found = Resolution(scale, recalibrate=False).apply(start, task).input_spec
    assert (found.height, found.width) == (expected, expected)


def test_batch_statistics_become_those_of_the_smaller_images(network: Artifact, task: FakeTask) -> None:
    after = Resolution(0.5).apply(network, task)
    pixels = torch.from_numpy(task.split("calibration").images(InputSpec(3, 16, 16), PREPROCESSING))
    with torch.no_grad():
        first = after.module.stem[0](Normalise(PREPROCESSING.mean, PREPROCESSING.std)(pixels))
    torch.testing.assert_close(after.module.stem[1].running_mean, first.mean((0, 2, 3)), rtol=0.05, atol=0.05)
    assert not after.module.training
    assert not torch.allclose(after.module.stem[1].running_mean, network.module.stem[1].running_mean, atol=0.01)
    assert (network.input_spec, after.original) == (SPEC, network)


@pytest.mark.parametrize("count", [1, 34])
def test_each_image_counts_the_same(network: Artifact, count: int) -> None:
    """34 images are not a batch of 32 and one of 2 that weigh the same; one image has no statistics."""
    task = FakeTask()
    task.splits["calibration"] = Images(count, 0)
    after = Resolution(0.5).apply(network, task)
    pixels = torch.from_numpy(task.split("calibration").images(InputSpec(3, 16, 16), PREPROCESSING))
    with torch.no_grad():
        first = after.module.stem[0](Normalise(PREPROCESSING.mean, PREPROCESSING.std)(pixels)).mean((0, 2, 3))
    expected = network.module.stem[1].running_mean if count == 1 else first
    torch.testing.assert_close(after.module.stem[1].running_mean, expected, rtol=1e-4, atol=1e-5)


def test_without_recalibration_and_at_full_scale_no_number_changes(network: Artifact, task: FakeTask) -> None:
    for technique in (Resolution(0.5, recalibrate=False), Resolution(1.0)):
        after = technique.apply(network, task).module.state_dict()
        assert all(np.array_equal(after[k], v) for k, v in network.module.state_dict().items())


def test_a_network_of_one_size_is_refused(network: Artifact, task: FakeTask) -> None:
    tied: Any = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 16 * 16, 3)).eval()
    with pytest.raises(TechniqueError, match="does not run on 16 x 16"):
        Resolution(0.5).apply(replace(network, module=tied), task)


def test_images_do_not_become_too_small(network: Artifact, task: FakeTask) -> None:
    with pytest.raises(TechniqueError, match=r"smallest scale is 0\.25"):
        Resolution(0.1).apply(network, task)
    for scale in (0.0, 1.5, -1):
        with pytest.raises(ValidationError):
            Resolution(scale)
