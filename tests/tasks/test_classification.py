"""The classification task against torch's and SciPy's own arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from planish.task import LossSettings, Task
from planish.tasks import Classification

task: Task = Classification({}, ("a", "b", "c"))
NETWORK = torch.nn.Identity()  # a classifier has no say in its loss
rng = np.random.default_rng(0)
logits = rng.normal(size=(40, 3)).astype(np.float32)
targets = rng.integers(0, 3, 40)


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    expected = -log_softmax(logits, axis=1)[np.arange(40), targets].mean()
    assert np.isclose(task.loss(NETWORK, torch.from_numpy(logits), torch.from_numpy(targets)).item(), expected, atol=1e-6)
    soft = softmax(rng.normal(size=(40, 3)), axis=1)
    expected = -(soft * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert np.isclose(task.loss(NETWORK, torch.from_numpy(logits), torch.from_numpy(soft)).item(), expected, atol=1e-6)


def test_distillation_is_the_divergence_of_softened_distributions_times_temperature_squared() -> None:
    teacher = rng.normal(size=(40, 3)).astype(np.float32)
    p, q = softmax(teacher / 4, axis=1), softmax(logits / 4, axis=1)
    expected = 16 * (p * np.log(p / q)).sum(axis=1).mean()
    found = task.distillation_loss(NETWORK, torch.from_numpy(logits), torch.from_numpy(teacher), 4.0).item()
    assert np.isclose(found, expected, atol=1e-5)
    assert task.distillation_loss(NETWORK, torch.from_numpy(teacher), torch.from_numpy(teacher), 4.0).item() < 1e-6


def test_scores_are_what_the_primary_metric_is_the_mean_of() -> None:
    outputs = {"logits": logits}
    metrics = task.metrics(outputs, targets)
    assert next(iter(metrics)) == task.primary_metric
    assert np.isclose(100 * task.scores(outputs, targets).mean(), metrics["accuracy"].value)
    assert (task.decode(outputs) == logits.argmax(axis=1)).all()


def test_decoupled_distillation_is_the_divergence_with_its_factor_taken_out() -> None:
    """The whole divergence is that of right against other, plus (1 - p) times that among the others (Zhao et al. 2022, equation 7)."""
    logits, teacher, targets, t = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)) * 3, np.array([0, 1, 2, 3, 1]), 2.0

    def softmax(x):
        return np.exp(x / t) / np.exp(x / t).sum(1, keepdims=True)

    p, q = softmax(teacher), softmax(logits)
    rows = np.arange(5)
    pr, qr = p[rows, targets], q[rows, targets]
    binary = pr * np.log(pr / qr) + (1 - pr) * np.log((1 - pr) / (1 - qr))
    whole = (p * np.log(p / q)).sum(1)
    others = (whole - binary) / (1 - pr)
    found = task.distillation_loss(NETWORK, torch.from_numpy(logits), torch.from_numpy(teacher), t, torch.from_numpy(targets)).item()
    assert found == pytest.approx((binary + others).mean() * t**2)


unbalanced = Classification({"train": SimpleNamespace(targets=np.repeat([0, 1, 2], [60, 30, 10]))}, ("a", "b", "c"))
EVERY = [
    LossSettings(kind, gamma, weights, smoothing)
    for kind, gamma in (("cross_entropy", 2.0), ("focal", 0.5), ("focal", 2.0))
    for weights in ("none", "balanced")
    for smoothing in (0.0, 0.1)
]


def loss_of(targets: np.ndarray, settings: LossSettings) -> float:
    return unbalanced.loss(NETWORK, torch.from_numpy(logits).double(), torch.from_numpy(targets), settings).item()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_two_classes_is_torchvisions(gamma: float) -> None:
    values, of_second = torch.from_numpy(3 * logits[:, :2]).double(), torch.from_numpy(targets % 2)
    expected = sigmoid_focal_loss(values[:, 1] - values[:, 0], of_second.double(), alpha=-1, gamma=gamma, reduction="mean")
    assert task.loss(NETWORK, values, of_second, LossSettings("focal", gamma)).item() == pytest.approx(expected.item(), rel=1e-9)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    values, labels = torch.from_numpy(logits), torch.from_numpy(targets)
    expected = functional.cross_entropy(values, labels, label_smoothing=0.1)
    assert task.loss(NETWORK, values, labels, LossSettings("focal", 0.0, label_smoothing=0.1)).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_weights_are_scikit_learns_and_the_mean_is_over_images(smoothing: float) -> None:
    weight = compute_class_weight("balanced", classes=np.arange(3), y=unbalanced.split("train").targets)
    summed = functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), torch.from_numpy(weight), reduction="sum", label_smoothing=smoothing
    )
    assert loss_of(targets, LossSettings(class_weights="balanced", label_smoothing=smoothing)) == pytest.approx(summed.item() / 40)


def test_a_class_that_is_not_trained_on_does_not_upset_the_weights() -> None:
    absent = Classification({"train": SimpleNamespace(targets=np.array([0, 0, 0, 2]))}, ("a", "b", "c"))
    values, labels = torch.zeros(1, 3), torch.tensor([0])
    found = [absent.loss(NETWORK, values, labels + i, LossSettings(class_weights="balanced")).item() / np.log(3) for i in range(3)]
    assert found == pytest.approx([4 / (2 * 3), 1, 4 / (2 * 1)])


@pytest.mark.parametrize("settings", EVERY, ids=str)
def test_soft_targets_mix_the_losses_of_what_they_mix(settings: LossSettings) -> None:
    others = np.random.default_rng(5).integers(0, 3, 40)
    assert loss_of(np.eye(3)[targets], settings) == pytest.approx(loss_of(targets, settings), rel=1e-9)
    mixed = loss_of(0.3 * np.eye(3)[targets] + 0.7 * np.eye(3)[others], settings)
    assert mixed == pytest.approx(0.3 * loss_of(targets, settings) + 0.7 * loss_of(others, settings), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_gradients_of_the_focal_loss_are_finite_where_the_network_is_certain(gamma: float) -> None:
    values = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0]], requires_grad=True)
    task.loss(NETWORK, values, torch.tensor([0, 0]), LossSettings("focal", gamma)).backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad[0].abs().max() < 1e-6
    assert values.grad[1, 0] < 0, "a wrong prediction, however certain, is still corrected"
