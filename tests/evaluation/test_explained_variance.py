"""Explained variance of raw outputs, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from planish.errors import ModelError
from planish.evaluation.metrics.explained_variance import OutputTargets, explained_variance
from planish.tasks import RawOutputs

RNG = np.random.default_rng(0)


def test_the_mean_is_scikit_learns_r2_weighted_by_variance() -> None:
    truth = RNG.normal(size=(40, 3, 5, 7)) * RNG.uniform(0.5, 4, (3, 5, 7)) + RNG.normal(size=(3, 5, 7)) * 100
    given = truth + RNG.normal(size=truth.shape) * 0.2
    found = explained_variance({"maps": given.astype(np.float32)}, OutputTargets({"maps": truth.astype(np.float32)}))["maps"]
    expected = r2_score(truth.reshape(40, -1), given.reshape(40, -1), multioutput="variance_weighted")
    assert found.mean() == pytest.approx(expected, abs=1e-5)
    assert found.std() > 0


def test_what_does_not_depend_on_the_image_does_not_count() -> None:
    truth = {"grid": np.repeat(RNG.normal(size=(1, 6)), 30, 0), "boxes": RNG.normal(size=(30, 4)).astype(np.float32)}
    shifted = {"grid": truth["grid"] + 5, "boxes": truth["boxes"]}
    found = explained_variance(shifted, OutputTargets(truth))
    assert list(found) == ["boxes"]
    np.testing.assert_array_equal(found["boxes"], 1)
    with pytest.raises(ModelError, match="no output depends on the image"):
        explained_variance(shifted, OutputTargets({"grid": truth["grid"]}))


def test_an_image_has_at_least_0_even_if_its_outputs_are_not_finite() -> None:
    truth = RNG.normal(size=(20, 8))
    given = truth.copy()
    given[3], given[4] = 1e6, np.nan
    found = explained_variance({"y": given}, OutputTargets({"y": truth}))["y"]
    assert found[3] == found[4] == 0
    np.testing.assert_array_equal(np.delete(found, [3, 4]), 1)


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match="'y'"):
        explained_variance({"y": np.zeros((4, 3))}, OutputTargets({"y": np.zeros((4, 2))}))
    with pytest.raises(ModelError, match="'y'"):
        explained_variance({}, OutputTargets({"y": np.zeros((4, 2))}))


def test_the_metric_is_the_mean_of_the_outputs_and_of_the_scores() -> None:
    truth = {"a": RNG.normal(size=(50, 3)), "b": RNG.normal(size=(50, 2, 2))}
    given = {name: values + 0.3 * RNG.normal(size=values.shape) for name, values in truth.items()}
    task, targets = RawOutputs({}, ("a", "b")), OutputTargets(truth)
    measured, scores = task.metrics(given, targets)["explained_variance"], task.scores(given, targets)
    each = task.per_class(given, targets)
    assert measured.value == pytest.approx(100 * scores.mean())
    assert measured.value == pytest.approx(np.mean([each["a"].value, each["b"].value]))
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < measured.value < measured.high
    assert (measured.unit, measured.n, measured.higher_is_better) == ("%", 50, True)
