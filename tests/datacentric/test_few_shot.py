"""The few-shot probe: the classifier is scikit-learn's, features are the penultimate layer's, draws are nested and balanced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from planish import commands
from planish.artifact import InputSpec, Preprocessing
from planish.datacentric import few_shot as probe
from planish.errors import DataError, GoalError
from planish.models import create
from planish.report.pages.few_shot import few_shot_table
from planish.testing import write_shapes


@pytest.mark.parametrize(("classes", "c"), [(2, 1.0), (4, 0.1), (4, 100.0)])
def test_the_classifier_is_scikit_learns(classes: int, c: float) -> None:
    rng = np.random.default_rng(classes)
    targets = np.arange(60) % classes
    x = rng.normal(size=(60, 8)) + 1.5 * np.eye(classes, 8)[targets]
    weight, bias = probe.logistic_regression(x, targets, classes, c)
    reference = LogisticRegression(C=c * (2 if classes == 2 else 1), tol=1e-10, max_iter=10_000).fit(x, targets)
    if classes == 2:  # scikit-learn has one row of weights there, and so one half of the penalty
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    else:
        bias = bias - bias.mean()
    np.testing.assert_allclose(weight, reference.coef_, atol=1e-3)
    np.testing.assert_allclose(bias, reference.intercept_ - (reference.intercept_.mean() if classes > 2 else 0), atol=1e-3)


def test_features_are_what_the_classifier_is_given() -> None:
    module = create("resnet8x0.5", num_classes=4, channels=1, image_size=12).module.eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), dtype=np.uint8)
    found = probe.features(module, InputSpec(1, 12, 12), Preprocessing(12, "squash", (0.3,), (0.25,)), images)
    name = next(name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear))
    module.set_submodule(name, torch.nn.Identity())
    with torch.no_grad():
        penultimate = module((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.3) / 0.25)
    np.testing.assert_allclose(found, normalize(penultimate.numpy()), atol=1e-5)


def test_maps_are_averaged_over_positions() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.Conv2d(6, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)
    found = probe.features(module, InputSpec(1, 12, 12), Preprocessing(12, "squash", (0.0,), (1.0,)), images)
    with torch.no_grad():
        maps = module[0](torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(found, normalize(maps.mean((2, 3)).numpy()), atol=1e-5)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), per_class=80)


def test_more_images_carry_further(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fresh = create("resnet8", num_classes=3, channels=1, image_size=24).module  # whose features tell shapes apart somewhat
    torch.save(fresh.state_dict(), tmp_path / "weights.pth")
    learned: list[list[int]] = []
    plain = probe.logistic_regression

    def watched(x: np.ndarray, targets: np.ndarray, *rest: int) -> tuple[np.ndarray, np.ndarray]:
        assert set(np.bincount(targets).tolist()) == {len(targets) // 3}
        learned.append([hash(row.tobytes()) for row in x])
        return plain(x, targets, *rest)

    monkeypatch.setattr(probe, "logistic_regression", watched)
    found = commands.few_shot(shapes, shots=[40, 1], model="resnet8", weights=tmp_path / "weights.pth", draws=10)
    assert [len(rows) for rows in learned] == [3, 120] * 10
    assert all(set(few) <= set(many) for few, many in zip(learned[::2], learned[1::2], strict=True))
    assert learned[1] != learned[3]
    assert [shot.per_class for shot in found.shots] == [1, 40]
    one, forty = (shot.accuracy.value for shot in found.shots)
    assert found.guessing == pytest.approx(100 / 3, abs=15), "splits have about their share of each class"
    assert one > found.guessing
    assert forty > one + 2
    assert found.shots[1].gain is not None
    assert found.shots[1].gain.value == pytest.approx(forty - one)
    assert few_shot_table(found).row_count == 2


def test_what_cannot_be_asked_is_told(shapes: Path) -> None:
    with pytest.raises(GoalError, match="--weights"):
        commands.few_shot(shapes, model="resnet8", weights=None)
    with pytest.raises(GoalError, match="at least one"):
        commands.few_shot(shapes, shots=[0])
    weights = create("resnet8", num_classes=3, channels=1, image_size=24).module
    path = shapes.parent / "resnet8.pth"
    torch.save(weights.state_dict(), path)
    with pytest.raises(DataError, match=r"has \d+ training images.*at most \d+"):
        commands.few_shot(shapes, shots=[80], model="resnet8", weights=path)
