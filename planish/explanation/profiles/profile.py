"""What a runtime really did with a model: the layers it executed, in which arithmetic, for how long. The same for all runtimes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["convolution", "depthwise", "linear", "activation", "conversion", "other"]

# by ONNX's names and by OpenVINO's, which executes activations of a kind under these names where it cannot fuse them
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
    """One layer as it was executed. A layer of the file that was fused into another one does not show up.

    Args:
        name: as the runtime calls it.
        op: the operation: ``QLinearConv``, ``Convolution``.
        kind: of layer.
        ms: per call.
        precision: of the arithmetic: ``int8``, ``fp32``, ``bf16``, ``fp16``.
        shape: of its output.
        kernel: what computed it, where the runtime says: ``brgconv_avx512_I8``.
        macs: per call; 0 where it does not multiply matrices.
        weight: shape of its weights ``(C_out, C_in / groups, ...)`` in the file, empty where it has none.
        weight_type: ``uint8``, ``int8``, ``float32``, ...; empty where it has none.
        zeros: share of its weights that are 0.
        inputs: names of the executed layers whose outputs it reads.
        source: name of the layer in the file that it computes, where it is known.
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
        """Billions of operations a second, two for a multiplication with its addition."""
        return 2 * self.macs / (self.ms * 1e6) if self.ms > 0 else 0.0


@dataclass(frozen=True)
class Profile:
    """One model in one runtime.

    Args:
        runtime: its name.
        threads: it may compute with.
        batch: images in a batch.
        latency_ms: median of whole calls, timed without the profiler.
        layers: in the order of execution.
        settings: of the runtime.
        signed_activations: tensors between layers that the file quantizes to signed 8 bits.
        unsigned_activations: the same, unsigned.
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
        """Sum over layers. The profiler makes it larger than ``latency_ms`` where layers are many and short."""
        return sum(layer.ms for layer in self.layers)

    def ms(self, layer: LayerProfile) -> float:
        """Its time within ``latency_ms``: what the profiler itself takes is removed in proportion."""
        return layer.ms * min(1.0, self.latency_ms / self.layers_ms) if self.layers_ms > 0 else 0.0

    def total_ms(self, layers: list[LayerProfile]) -> float:
        """Their time within ``latency_ms``."""
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
        """The executed layers that it reads."""
        return [self._by_name[name] for name in layer.inputs if name in self._by_name]

    def readers(self, layer: LayerProfile) -> list[LayerProfile]:
        """The executed layers that read it."""
        return self._readers.get(layer.name, [])

    def conversions(self, layer: LayerProfile) -> list[LayerProfile]:
        """Quantizing, dequantizing, casting and reordering right before and after a layer."""
        around = [*self.sources(layer), *self.readers(layer)]
        return [other for other in around if other.kind == "conversion"]

    @property
    def matrix_layers(self) -> list[LayerProfile]:
        """Convolutions and linear layers: what compression makes faster."""
        return [layer for layer in self.layers if layer.kind in ("convolution", "depthwise", "linear")]
