"""The classification task against torch's and SciPy's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from planish.task import Task
from planish.tasks import Classification

task: Task = Classification({}, ("a", "b", "c"))
rng = np.random.default_rng(0)
logits = rng.normal(size=(40, 3)).astype(np.float32)
targets = rng.integers(0, 3, 40)


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    expected = -log_softmax(logits, axis=1)[np.arange(40), targets].mean()
    assert np.isclose(task.loss(torch.from_numpy(logits), torch.from_numpy(targets)).item(), expected, atol=1e-6)
    soft = softmax(rng.normal(size=(40, 3)), axis=1)
    expected = -(soft * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert np.isclose(task.loss(torch.from_numpy(logits), torch.from_numpy(soft)).item(), expected, atol=1e-6)


def test_distillation_is_the_divergence_of_softened_distributions_times_temperature_squared() -> None:
    teacher = rng.normal(size=(40, 3)).astype(np.float32)
    p, q = softmax(teacher / 4, axis=1), softmax(logits / 4, axis=1)
    expected = 16 * (p * np.log(p / q)).sum(axis=1).mean()
    found = task.distillation_loss(torch.from_numpy(logits), torch.from_numpy(teacher), 4.0).item()
    assert np.isclose(found, expected, atol=1e-5)
    assert task.distillation_loss(torch.from_numpy(teacher), torch.from_numpy(teacher), 4.0).item() < 1e-6


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
    found = task.distillation_loss(torch.from_numpy(logits), torch.from_numpy(teacher), t, torch.from_numpy(targets)).item()
    assert found == pytest.approx((binary + others).mean() * t**2)
