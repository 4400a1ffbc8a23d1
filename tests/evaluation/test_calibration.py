from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from planish.errors import ModelError
from planish.evaluation.metrics.calibration import fit_temperature, reliability, temperature_scaling
from planish.evaluation.metrics.classification import calibration_error


def draw(n: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from the probabilities of a perfect model, and its logits times ``temperature``."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    targets = np.array([rng.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return temperature * logits, targets


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 6), st.floats(0.02, 50), st.floats(-2, 5), st.integers(0, 10_000))
def test_it_never_worsens_the_log_loss_of_what_it_was_fitted_on(n: int, classes: int, scale: float, skill: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += skill
    logits *= scale
    temperature, low, high = fit_temperature(logits, targets)
    assert low <= temperature <= high
    before, after = (log_loss(targets, softmax(logits / t, axis=1), labels=range(classes)) for t in (1, temperature))
    assert after <= before + 1e-9
    assert (logits.argmax(1) == (logits / temperature).argmax(1)).all()


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_it_is_the_temperature_that_torch_and_a_plain_search_find(truth: float) -> None:
    logits, targets = draw(400, 5, truth, 0)
    found = fit_temperature(logits, targets).value
    plain = optimize.minimize_scalar(
        lambda t: log_loss(targets, softmax(logits / np.exp(t), axis=1), labels=range(5)), bounds=(-4, 4), method="bounded"
    )
    assert np.log(found) == pytest.approx(plain.x, abs=1e-4)
    sharpness = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([sharpness], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits) * sharpness, torch.from_numpy(targets))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(1 / sharpness.item(), rel=1e-4)


def test_its_interval_covers_the_true_temperature() -> None:
    intervals = [fit_temperature(*draw(200, 4, 2.5, seed))[1:] for seed in range(400)]
    assert 0.92 <= np.mean([low <= 2.5 <= high for low, high in intervals]) <= 0.98
    assert np.median([high / low for low, high in intervals]) < 1.6


def test_nothing_can_be_learned_without_mistakes_or_from_a_model_worse_than_guessing() -> None:
    targets = np.arange(30) % 3
    assert fit_temperature(0.1 * np.eye(3)[targets], targets) == (1, 0.001, 1000)
    assert fit_temperature(-5 * np.eye(3)[targets], targets) == (1000, 0.001, 1000)


@pytest.mark.parametrize("truth", [0.4, 4.0])
def test_it_helps_on_other_images_and_says_by_how_much(truth: float) -> None:
    validation, test = draw(500, 5, truth, 0), draw(2000, 5, truth, 1)
    found = temperature_scaling(*validation, *test)
    assert list(found) == ["temperature", "log_loss", "calibration_error", "log_loss_scaled", "calibration_error_scaled"]
    assert found["temperature"].value == fit_temperature(*validation).value == pytest.approx(truth, rel=0.2)
    assert found["temperature"].n == 500
    logits, targets = test
    for suffix, divisor in (("", 1), ("_scaled", found["temperature"].value)):
        expected = log_loss(targets, softmax(logits / divisor, axis=1), labels=range(5))
        assert found[f"log_loss{suffix}"].value == pytest.approx(expected, abs=1e-6)
    for name in ("log_loss", "calibration_error"):
        before, after = found[name], found[f"{name}_scaled"]
        assert before.n == after.n == 2000
        assert before.low is not None
        assert after.high is not None
        assert after.low <= after.value <= after.high < before.low  # type: ignore[operator]


def test_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(ModelError):
        temperature_scaling(*draw(20, 3, 1, 0), *draw(20, 4, 1, 0))


def test_a_reliability_diagram_has_scikit_learns_points_and_adds_up_to_the_calibration_error() -> None:
    logits, targets = draw(800, 4, 2.5, 3)
    probs = softmax(logits, axis=1)
    sure, right = probs.max(1), probs.argmax(1) == targets
    bins = reliability(logits, targets)
    shares, confidences = calibration_curve(right, sure, n_bins=15)
    np.testing.assert_allclose([b.confidence for b in bins], confidences)
    np.testing.assert_allclose([b.accuracy.value for b in bins], shares)
    assert sum(b.n for b in bins) == 800
    gap = sum(b.n * abs(b.confidence - b.accuracy.value) for b in bins) / 800
    assert gap == pytest.approx(calibration_error(probs, targets).value)
    assert all(b.accuracy.low <= b.accuracy.value <= b.accuracy.high for b in bins)
