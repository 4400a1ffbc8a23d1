"""A loader for the latency tests: a small ONNX file in ONNX Runtime, or something that misbehaves."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def write_model(path: Path, channels: int = 24, layers: int = 4) -> Path:
    """Convolutions on uint8 images (N, 32, 32, 3), about ``channels^2 * layers * 9 * 1024`` MACs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    weights, inputs = [], 3
    for i in range(layers):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.05, (channels, inputs, 3, 3)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"]))
        inputs = channels
    nodes.append(helper.make_node("ReduceMean", [f"x{layers}"], ["logits"], axes=[2, 3], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", channels])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def load(file: str, threads: int = 1, chatty: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    if chatty:
        print("a library says hello")
        os.write(1, b"and so does its C++ half\n")

    def predict(images: Any) -> Any:
        if chatty:
            print("again", flush=True)
        return {"logits": session.run(None, {"images": images})[0]}

    return predict


def load_work(sleep_ms: float = 0.0, spin_ms: float = 0.0, hold_mb: int = 0) -> Any:
    """Takes a known time, holds a known amount of memory."""
    held = np.ones(hold_mb << 20, dtype=np.uint8)

    def predict(images: Any) -> Any:
        time.sleep(sleep_ms / 1e3)
        end = time.perf_counter() + spin_ms / 1e3
        while time.perf_counter() < end:
            pass
        return {"logits": np.zeros((len(images), 2)), "held": held}

    return predict


def load_timed(call_ms: float) -> Any:
    """Calls that take a known time, within 1 %, by a clock that nothing else moves on: no other process can make them longer."""
    now, noise = [0], np.random.default_rng(0)
    time.perf_counter_ns = lambda: now[0]

    def predict(images: Any) -> Any:
        now[0] += int(1e6 * call_ms * noise.normal(1, 0.01))
        return {"logits": np.zeros((len(images), 2))}

    return predict


def load_environment() -> Any:
    """Reports what the process was given: raises unless the thread variables are 3 and batches are full."""
    assert os.environ["OMP_NUM_THREADS"] == "3", os.environ["OMP_NUM_THREADS"]
    assert "torch" not in sys.modules, "the worker must not import torch by itself"

    def predict(images: Any) -> Any:
        assert images.shape == (4, 32, 32, 3), images.shape
        assert images.dtype == np.uint8
        return {}

    return predict


def load_broken(how: str) -> Any:
    if how == "raises":
        raise ValueError("no such layer")
    if how == "dies":
        print("segmentation fault coming", file=sys.stderr, flush=True)
        os.abort()
    if how == "exits":
        sys.exit(3)
    time.sleep(1000)
