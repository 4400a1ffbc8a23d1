"""Ranges of activations against independent reckonings on the values themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from planish.compression.quantization.activation_ranges import CALIBRATORS, activation_ranges


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
    ends = (min(0.0, float(values.min())), max(0.0, float(values.max())))
    return np.histogram(values[values != 0], 2048, ends)[0].astype(float), ends


def rounding_error(values: Any, low: float, high: float) -> float:
    """Mean squared, of quantization as ONNX Runtime does it."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return float((((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values) ** 2).mean())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("kind", ["laplace", "uniform", "lognormal", "silu", "outlier"])
def test_mse_is_near_the_best_of_all_ends_tried_on_the_values(kind: str, zeros: float, signed: bool) -> None:
    rng, count = np.random.default_rng(1), 20_000
    normal = rng.normal(size=count)
    values = {
        "laplace": rng.laplace(size=count),
        "uniform": rng.uniform(-1, 1, count),
        "lognormal": np.exp(normal) * np.sign(rng.normal(size=count)),
        "silu": 3 * normal / (1 + np.exp(-3 * normal)),
        "outlier": np.r_[normal[1:], 100.0],
    }[kind]
    values = np.where(rng.random(count) < zeros, 0, values if signed else np.abs(values))
    counts, ends = values_and_counts(values)
    shares = np.geomspace(0.01, 1, 25)
    pairs = [(low, high) for low in shares for high in shares] if ends[0] < 0 else [(1, high) for high in np.geomspace(0.01, 1, 100)]
    best = min(rounding_error(values, ends[0] * low, ends[1] * high) for low, high in pairs)
    assert rounding_error(values, *CALIBRATORS["mse"](counts, ends)) < 1.15 * best


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_zeros_change_no_range(file: Path, method: Any) -> None:
    rng = np.random.default_rng(0)
    images = [(100 + rng.exponential(15, (50, 8, 8, 3))).clip(0, 255).astype(np.uint8) for _ in range(4)]
    black = np.zeros((1000, 8, 8, 3), np.uint8)  # all below the ReLU
    alone, among = (activation_ranges(file, lambda i=i: i, method)["logits"] for i in (images, [*images, black]))
    assert alone == among


def test_a_tensor_of_zeros_has_a_range(file: Path) -> None:
    black = [np.zeros((2, 8, 8, 3), np.uint8)]
    for method in ("minmax", "percentile", "entropy", "mse"):
        assert activation_ranges(file, lambda: black, method)["logits"] == (0, 0)


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
