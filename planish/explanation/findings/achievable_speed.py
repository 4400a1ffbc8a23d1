"""Peak speed of this machine on a large matrix product, with which the speed of layers is compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planish.devices.kernels import open_session
from planish.explanation.model_file import median_ms
from planish.export.runtimes.onnxruntime import OnnxRuntime

_SIZES = (512, 1024)  # sides of the square matrices; which one suits the caches better depends on the processor


@dataclass(frozen=True)
class AchievableSpeed:
    """Measured speed of a product of two large matrices in ONNX Runtime, in billions of operations per second (two operations per MAC).

    Args:
        fp32_gops: in 32-bit floats.
        int8_gops: in 8-bit integers, unsigned activations times signed weights.
        threads: number of threads used.
    """

    fp32_gops: float
    int8_gops: float
    threads: int

    def gops(self, precision: str) -> float | None:
        """Return the peak for a layer's precision; None if not measured: some processors have separate units for bf16 and fp16."""
        return {"int8": self.int8_gops, "fp32": self.fp32_gops}.get(precision)

    def best(self, other: AchievableSpeed) -> AchievableSpeed:
        """Return the better of two measurements, since other programs can only slow a measurement down."""
        return AchievableSpeed(max(self.fp32_gops, other.fp32_gops), max(self.int8_gops, other.int8_gops), self.threads)

    @property
    def int8_gain(self) -> float:
        """Largest possible speed-up of integer over float arithmetic."""
        return self.int8_gops / self.fp32_gops


def measure_peak_speed(threads: int) -> AchievableSpeed:
    """Measure the peak speed, in about two seconds. Sizes and precisions alternate, so that a busy moment does not affect only one."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for side in _SIZES:
        for integer in found:
            found[integer].append(_gops(threads, side, integer=integer))
    return AchievableSpeed(max(found[False]), max(found[True]), threads)


def _gops(threads: int, side: int, *, integer: bool) -> float:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    size = [side, side]
    activations = rng.integers(0, 256, size).astype(np.uint8) if integer else rng.standard_normal(size).astype(np.float32)
    weights = rng.integers(-127, 128, size).astype(np.int8) if integer else rng.standard_normal(size).astype(np.float32)
    read, made = (TensorProto.UINT8, TensorProto.INT32) if integer else (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])],
        "reach",
        [helper.make_tensor_value_info("a", read, size)],
        [helper.make_tensor_value_info("c", made, size)],
        [numpy_helper.from_array(weights, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = open_session(model.SerializeToString(), OnnxRuntime.session_options(threads))
    return 2 * side**3 / (median_ms(lambda: session.run(None, {"a": activations}), seconds=0.2, least=7) * 1e6)
