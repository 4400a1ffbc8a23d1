"""Ranges of activations against independent reckonings on the values themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from planish.compression.activation_ranges import CALIBRATORS, activation_ranges


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Pixels minus 100, and that through a ReLU."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["float", "shift"], ["shifted"]),
        helper.make_node("Relu", ["shifted"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 8, 8, 3])],
        [helper.make_tensor("shift", TensorProto.FLOAT, [], [-100.0])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


def test_minmax_is_what_was_seen_in_any_batch(file: Path) -> None:
    images = [np.full((2, 8, 8, 3), value, np.uint8) for value in (90, 130, 250)]
    assert activation_ranges(file, lambda: images, "minmax") == {"float": (0, 250), "shifted": (-10, 150), "logits": (0, 150)}


def test_a_single_stray_value_does_not_widen_the_percentile(file: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(103, 2, (200, 8, 8, 3)).clip(0, 255).astype(np.uint8) for _ in range(8)]
    images[3][0, 0, 0, 0] = 255
    low, high = activation_ranges(file, lambda: images, "percentile")["logits"]
    assert low == 0
    assert 8 < high < 20


def values_and_counts(values: Any) -> tuple[Any, Any]:
    ends = (min(0.0, values.min()), max(0.0, values.max()))
    return np.histogram(values, 2048, ends)[0].astype(float), ends


@pytest.mark.parametrize("kind", ["laplace", "relu", "uniform"])
def test_mse_is_near_the_best_of_all_cuts_tried_on_the_values(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = {"laplace": rng.laplace(size=100_000), "relu": rng.laplace(size=100_000).clip(0), "uniform": rng.uniform(size=100_000)}[kind]
    counts, ends = values_and_counts(values)

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        rounded = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        return float(((rounded - values) ** 2).mean())

    best = min(error(ends[0] * c, ends[1] * c) for c in np.linspace(0.05, 1, 96))
    assert error(*CALIBRATORS["mse"](counts, ends)) < 1.05 * best


def test_percentile_leaves_out_the_rarest() -> None:
    values = np.random.default_rng(2).exponential(size=1_000_000)
    counts, ends = values_and_counts(values)
    low, high = CALIBRATORS["percentile"](counts, ends)
    assert low == 0
    assert high == pytest.approx(np.quantile(values, 1 - 1e-5), abs=2 * ends[1] / 2048)


def test_entropy_cuts_a_long_tail_and_keeps_a_flat_one() -> None:
    rng = np.random.default_rng(3)
    flat = CALIBRATORS["entropy"](*values_and_counts(rng.uniform(0, 1, 200_000)))[1]
    assert flat > 0.9
    counts, ends = values_and_counts(np.concatenate([rng.normal(size=200_000).clip(0), [40.0]]))
    assert CALIBRATORS["entropy"](counts, ends)[1] < 12
