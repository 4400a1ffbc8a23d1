from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planish.artifact import InputSpec, Preprocessing
from planish.evaluation.metrics.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from planish.evaluation.metrics.robustness import robustness
from planish.progress import listening

SPEC, PREPROCESSING = InputSpec(1, 16, 16), Preprocessing(16, "squash", (0.5,), (0.5,))


def bright_half(images: Any) -> dict[str, Any]:
    """Says which half is brighter; corruptions fool it now and then."""
    left, right = images[:, :, :8].mean(axis=(1, 2, 3)), images[:, :, 8:].mean(axis=(1, 2, 3))
    return {"logits": np.stack([left, right], axis=1)}


@pytest.fixture
def task() -> Any:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 30)
    images = rng.integers(0, 200, (30, 16, 16, 1))
    for image, target in zip(images, targets, strict=True):
        image[:, 8 * target : 8 * target + 8] += 6
    images = images.astype(np.uint8)
    split = SimpleNamespace(targets=targets, images=lambda spec, preprocessing: images)
    return SimpleNamespace(
        split=lambda name: split,
        primary_metric="accuracy",
        scores=lambda outputs, targets: (outputs["logits"].argmax(1) == targets).astype(float),
        images=images,
        targets=targets,
    )


def test_it_is_the_mean_accuracy_over_severities(task: Any) -> None:
    with listening((told := []).append):
        found = robustness(bright_half, task, "test", SPEC, PREPROCESSING, batch_size=7, seed=3)
    assert list(found) == ["accuracy_corrupted", *(f"accuracy_{name}" for name in CORRUPTIONS)]
    expected = {}
    for name in CORRUPTIONS:
        right = [bright_half(corrupt(task.images, name, s, seed=3))["logits"].argmax(1) == task.targets for s in SEVERITIES]
        expected[f"accuracy_{name}"] = 100 * np.mean(right)
    expected["accuracy_corrupted"] = np.mean(list(expected.values()))
    assert {name: m.value for name, m in found.items()} == pytest.approx(expected)
    assert len(set(expected.values())) > 4, "otherwise nothing would be seen here"
    for m in found.values():
        assert (m.unit, m.n, m.higher_is_better) == ("%", 30, True)
        assert m.low is not None
        assert m.high is not None
        assert m.low <= m.value <= m.high
        assert m.low < m.high, "30 images are never certain"
    assert (told[-1].done, told[-1].total) == (55 * 30, 55 * 30)
    assert robustness(bright_half, task, "test", SPEC, PREPROCESSING, batch_size=64, seed=3) == found


def test_of_many_images_some_are_taken_evenly(task: Any) -> None:
    seen: list[Any] = []

    def watching(images: Any) -> dict[str, Any]:
        seen.append(images)
        return bright_half(images)

    found = robustness(watching, task, "test", SPEC, PREPROCESSING, most_images=4)
    assert {m.n for m in found.values()} == {4}
    brighter = seen[list(CORRUPTIONS).index("brightness") * 5]
    np.testing.assert_array_equal(brighter, corrupt(task.images[[0, 9, 19, 29]], "brightness", 1))


def test_images_under_five_severities_are_not_five_images(task: Any) -> None:
    """A model that ignores its input is right or wrong five times: the interval is that of 30 images."""
    found = robustness(lambda images: {"logits": np.eye(2)[np.zeros(len(images), int)]}, task, "test", SPEC, PREPROCESSING)
    m = found["accuracy_fog"]
    error = 100 * np.std(task.targets) / 30**0.5
    assert m.high - m.low == pytest.approx(2 * 1.96 * error, rel=0.2)  # type: ignore[operator]


def test_intervals_of_pseudo_values_stay_within_the_range_of_the_metric(task: Any) -> None:
    task.primary_metric = "map"
    for scores in ([1.05] * 29 + [-1.0], [-0.05] * 29 + [2.0]):  # of a nearly perfect model, and of a nearly blind one
        task.scores = lambda outputs, targets, scores=scores: np.array(scores)
        found = robustness(bright_half, task, "test", SPEC, PREPROCESSING)["map_corrupted"]
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low < found.value < found.high <= 100
