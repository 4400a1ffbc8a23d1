"""Profile of a model, in a common form for all runtimes: the executed layers with their precision and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["convolution", "depthwise", "linear", "activation", "conversion", "other"]

# operation names of ONNX and of OpenVINO; OpenVINO executes activations that it cannot fuse under these names
ACTIVATIONS = {
    "Relu", "Clip", "Sigmoid", "HardSwish", "HSwish", "HardSigmoid", "HSigmoid", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Erf", "Elu",
    "Selu", "Celu", "Softplus", "SoftPlus", "Softsign", "Tanh", "Mish", "Swish", "LeakyRelu", "PRelu", "ThresholdedRelu",
    "QLinearSigmoid", "QLinearLeakyRelu", "Exp", "Log",
}  # fmt: skip
CONVERSIONS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Transpose", "ReorderInput", "ReorderOutput",
    "Reorder", "Convert", "FakeQuantize", "Quantize",
}  # fmt: skip


@dataclass(frozen=True)
class LayerProfile:
    """One executed layer. A layer of the file that was fused into another one has no entry of its own.

    Args:
        name: the runtime's name of the layer.
        op: the executed operation, such as ``QLinearConv`` or ``Convolution``.
        kind: of layer.
        ms: time per call, including the profiler's overhead.
        precision: of the arithmetic: ``int8``, ``fp32``, ``bf16``, ``fp16``.
        shape: of the output.
        kernel: its implementation, if the runtime reports it, such as ``brgconv_avx512_I8``.
        macs: per call; 0 for operations without matrix products.
        weight: shape of the weight ``(C_out, C_in / groups, ...)`` in the file; empty if there is none.
        weight_type: ``uint8``, ``int8``, ``float32``, ...; empty if there is no weight.
        zeros: share of the weights that are 0.
        inputs: names of the executed layers whose outputs are its inputs.
        source: name of the corresponding layer in the file; empty if unknown.
    """

    name: str
    op: str
    kind: Kind
    ms: float
    precision: str
    shape: tuple[int, ...] = ()
    kernel: str = ""
    macs: int = 0
    weight: tuple[int, ...] = ()
    weight_type: str = ""
    zeros: float = 0.0
    inputs: tuple[str, ...] = ()
    source: str = ""

    @property
    def gops(self) -> float:
        """Billions of operations per second (two operations per MAC)."""
        return 2 * self.macs / (self.ms * 1e6) if self.ms > 0 else 0.0


@dataclass(frozen=True)
class Profile:
    """The profile of one model in one runtime.

    Args:
        runtime: name of the runtime.
        threads: number of threads.
        batch: batch size.
        latency_ms: median latency of a call, timed without the profiler.
        layers: in order of execution.
        settings: of the runtime.
        signed_activations: number of activations that the file quantizes to signed 8 bits.
        unsigned_activations: number of activations that the file quantizes to unsigned 8 bits.
    """

    runtime: str
    threads: int
    batch: int
    latency_ms: float
    layers: tuple[LayerProfile, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    signed_activations: int = 0
    unsigned_activations: int = 0

    @property
    def layers_ms(self) -> float:
        """Sum over layers; the profiler's overhead makes it larger than ``latency_ms`` if there are many short layers."""
        return sum(layer.ms for layer in self.layers)

    def ms(self, layer: LayerProfile) -> float:
        """Return a layer's time, scaled down if needed so that the sum over layers does not exceed ``latency_ms``."""
        return layer.ms * min(1.0, self.latency_ms / self.layers_ms) if self.layers_ms > 0 else 0.0

    def total_ms(self, layers: list[LayerProfile]) -> float:
        """Return the sum of ``ms`` over the given layers."""
        return sum(self.ms(layer) for layer in layers)

    @cached_property
    def _by_name(self) -> dict[str, LayerProfile]:
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def _readers(self) -> dict[str, list[LayerProfile]]:
        readers: dict[str, list[LayerProfile]] = {}
        for layer in self.layers:
            for name in layer.inputs:
                readers.setdefault(name, []).append(layer)
        return readers

    def sources(self, layer: LayerProfile) -> list[LayerProfile]:
        """Return the executed layers whose outputs are this layer's inputs."""
        return [self._by_name[name] for name in layer.inputs if name in self._by_name]

    def readers(self, layer: LayerProfile) -> list[LayerProfile]:
        """Return the executed layers that read this layer's output."""
        return self._readers.get(layer.name, [])

    def conversions(self, layer: LayerProfile) -> list[LayerProfile]:
        """Return the nodes directly before and after a layer that quantize, dequantize, cast or reorder."""
        around = [*self.sources(layer), *self.readers(layer)]
        return [other for other in around if other.kind == "conversion"]

    @property
    def matrix_layers(self) -> list[LayerProfile]:
        """Convolution and linear layers, which compression can make faster."""
        return [layer for layer in self.layers if layer.kind in ("convolution", "depthwise", "linear")]
