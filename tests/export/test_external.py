"""Classifiers from other exporters that end in probabilities: however sure they are, the file gives logits for the same probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.artifact import InputSpec, Preprocessing
from planish.export.onnx.external import ExternalModel, add_normalisation

_END = {
    "softmax": [helper.make_node("Softmax", ["z"], ["y"], axis=1)],
    "sigmoid": [helper.make_node("Sigmoid", ["z"], ["y"])],
    "sigmoid in steps": [
        helper.make_node("Neg", ["z"], ["negative"]),
        helper.make_node("Exp", ["negative"], ["exponential"]),
        helper.make_node("Add", ["exponential", "one"], ["sum"]),
        helper.make_node("Reciprocal", ["sum"], ["y"]),
    ],
}


def _classifier(weights: Any, end: str) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "weights"], ["z"]), *_END[end]],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(1).reshape(()), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("end", _END)
@pytest.mark.parametrize("scale", [1, 5, 20])
def test_probabilities_near_0_and_1(end: str, scale: int) -> None:
    import onnxruntime

    rng = np.random.default_rng(0)
    weights, images = (scale * rng.standard_normal((12, 3))).astype(np.float32), rng.integers(0, 256, (8, 2, 2, 3)).astype(np.uint8)
    external = ExternalModel(Path("net.onnx"), _classifier(weights, end), None, 3, 2, 2)
    preprocessing = Preprocessing(decode_side=2, resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3)
    model, _ = add_normalisation(external, InputSpec(3, 2, 2), preprocessing, 3, images, np.zeros(8, int))
    (logits,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})
    assert np.isfinite(logits).all()
    z = ((images / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).reshape(8, 12) @ weights
    if end == "softmax":
        found, expected = (np.exp(v - np.logaddexp.reduce(v, axis=1, keepdims=True)) for v in (logits, z))
    else:
        found, expected = (np.exp(-np.logaddexp(0, -v)) for v in (logits, z))
    np.testing.assert_allclose(found, expected, atol=1e-4)
