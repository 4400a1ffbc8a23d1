"""The latency of single layers in a runtime, the table by which ranks, widths and precisions are chosen.

Each variant is written as a small ONNX file: pooling, the layers, global pooling. All variants and the frame without layers are timed in
turn, and the latency of the frame is subtracted. What remains is the latency of the layers without the conversion of inputs to the
runtime's own layout, which a layer inside a network does not need. The files lack what follows in a network: fused activations and
additions.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from planish.deadline import seconds_left
from planish.decisions import decide
from planish.devices.device import current_device
from planish.errors import TechniqueError
from planish.files.numbers import read_numbers, write_numbers
from planish.files.workspace import cache_root
from planish.progress import Stage

Precision = Literal["fp32", "int8"]
LayerPrecision = Literal["fp32", "int8", "fp32_in_int8"]
Pair = tuple[int, int]

_DIFFERENT_WEIGHTS = 1021  # of a layer, repeated: the file is sent to a device in little time
_AT_ONCE = 24  # variants that are timed in turn; with more, the machine's speed would drift between turns of the same variant


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConvShape:
    """One convolution without its weights; a linear layer is a 1x1 convolution on a feature map with one pixel per row of its input."""

    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, size: Pair) -> Pair:
        """The height and width of the output for an input of this height and width."""
        sides = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        height, width = sides
        return height, width


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Variant:
    """A sequence of layers with an input size and a precision.

    Args:
        layers: empty for the frame alone.
        size: height and width of the first layer's input.
        channels: of the first layer's input.
        precision: ``int8`` puts quantize and dequantize nodes around all layers, as the technique ``int8`` does; ``fp32_in_int8`` is for
            float layers between INT8 layers, which have to convert their inputs and outputs.
    """

    layers: tuple[ConvShape, ...]
    size: Pair
    channels: int
    precision: LayerPrecision = "fp32"


def multiplications(variant: Variant) -> int:
    """The MACs of a variant for one image."""
    total, size = 0, variant.size
    for shape in variant.layers:
        size = shape.output_size(size)
        total += shape.in_channels // shape.groups * shape.out_channels * math.prod(shape.kernel) * math.prod(size)
    return total


_ANCHOR = Variant((ConvShape(64, 64, (3, 3), (1, 1), (1, 1)),), (28, 28), 64)


def layer_latencies(
    variants: Sequence[Variant],
    runtime: str,
    *,
    threads: int = 1,
    batch: int = 1,
    cache_dir: Path | None = None,
) -> list[float]:
    """The latency of each variant in milliseconds, after subtracting that of the frame. It is at least a hundredth of the measured
    latency, since the difference may be negative.

    They are timed on the current device (``planish.devices.device``). Latencies are cached on this machine (in one JSON file per device,
    runtime, version, threads and batch size); a resumed run keeps the latencies that it used before.

    Args:
        variants: repeated ones are timed only once.
        runtime: name of the runtime.
        threads: number of threads of the runtime.
        batch: batch size.
        cache_dir: instead of ``$PLANISH_CACHE`` or ``~/.cache/planish``.

    Raises:
        TechniqueError: the deadline (``planish.deadline``) passes before all are timed.
        RuntimeMissingError: the runtime is not installed.
    """
    asked = hashlib.sha256(repr((runtime, threads, batch, [_key(v) for v in variants])).encode()).hexdigest()[:16]
    return list(decide(f"times of layers:{asked}", lambda: _timed(variants, runtime, threads, batch, cache_dir)))


def _timed(variants: Sequence[Variant], runtime: str, threads: int, batch: int, cache_dir: Path | None) -> list[float]:
    file = cache_root(cache_dir) / "layer-latency" / f"{_machine_key(runtime, threads, batch)}.json"
    known = read_numbers(file)
    keys = {_key(v): v for v in variants}
    missing = [v for key, v in keys.items() if key not in known]
    if missing:
        groups: dict[tuple[Pair, int, LayerPrecision], list[Variant]] = {}
        for v in missing:
            groups.setdefault((v.size, v.channels, v.precision), []).append(v)
        with Stage(f"timing layers in {runtime}", len(missing)) as stage:
            for (size, channels, precision), members in groups.items():
                for start in range(0, len(members), _AT_ONCE):
                    if seconds_left() < 0:
                        write_numbers(file, read_numbers(file) | known)
                        raise TechniqueError(
                            f"timing {len(missing)} layers in {runtime} takes more time than there is for it",
                            f"{stage.done} were timed, and are kept for the next run",
                            "give it a larger budget",
                        )
                    timed = members[start : start + _AT_ONCE]
                    frame = Variant((), size, channels, precision)
                    anchor_ms, frame_ms, *rest = _take_turns([_ANCHOR, frame, *timed], runtime, threads, batch)
                    # the machine's speed varies: all times are scaled to its speed when the file was created
                    scale = known.setdefault("anchor", anchor_ms) / anchor_ms
                    known |= {_key(v): scale * max(ms - frame_ms, ms / 100) for v, ms in zip(timed, rest, strict=True)}
                    stage.advance(len(timed))
        write_numbers(file, read_numbers(file) | known)
    return [known[_key(v)] for v in variants]


def _take_turns(variants: Sequence[Variant], runtime: str, threads: int, batch: int) -> list[float]:
    """Time the variants in turn; returns the median over rounds of the median latency of each in ms."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(variants))]
        for file, variant in zip(files, variants, strict=True):
            file.write_bytes(_model(variant, batch))
        return current_device().take_turns(files, [(batch, v.channels, *v.size) for v in variants], runtime, threads)


def _model(variant: Variant, batch: int) -> bytes:
    """The ONNX file of a variant. Weights are random, scaled to keep values in range; INT8 weights are integers, as in a real model."""
    from onnx import TensorProto, helper, numpy_helper

    random_numbers = np.random.default_rng(0)
    nodes, constants = [], []
    is_int8, has_integers = variant.precision == "int8", variant.precision != "fp32"

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def quantized(name: str) -> str:
        if not has_integers:
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [name + "_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [name + "_q", "scale", "zero"], [name + "_d"]))
        return name + "_d"

    if has_integers:
        constant("scale", np.float32(0.02))
        constant("zero", np.uint8(128))
    nodes.append(helper.make_node("MaxPool", ["images"], ["pooled"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]))
    last = quantized("pooled")
    for number, layer in enumerate(variant.layers):
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
        weight, bias = f"weight{number}", f"bias{number}"
        few = random_numbers.standard_normal(_DIFFERENT_WEIGHTS, dtype=np.float32)
        values = np.resize(few, shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        if is_int8:
            # 7 bits where 8 would overflow, as in the quantization of the search; kernels may differ
            scales = np.abs(values).max((1, 2, 3)).astype(np.float32) / (63 if current_device().saturates else 127)
            constant(weight + "_q", np.round(values / scales[:, None, None, None]).astype(np.int8))
            constant(weight + "_scale", scales)
            constant(weight + "_zero", np.zeros(len(scales), np.int8))
            constant(bias + "_q", np.zeros(len(scales), np.int32))
            constant(bias + "_scale", scales * np.float32(0.02))
            constant(bias + "_zero", np.zeros(len(scales), np.int32))
            nodes += [helper.make_node("DequantizeLinear", [n + "_q", n + "_scale", n + "_zero"], [n], axis=0) for n in (weight, bias)]
        else:
            constant(weight, values)
            constant(bias, np.zeros(layer.out_channels, np.float32))
            if has_integers:  # otherwise ONNX Runtime would quantize the weights, see ``mixed_precision.shield``
                least = constant(f"least{number}", np.float32(np.finfo(np.float32).min))
                nodes.append(helper.make_node("Clip", [last, least], [f"shielded{number}"]))
                last = f"shielded{number}"
        nodes.append(
            helper.make_node(
                "Conv",
                [last, weight, bias],
                [f"layer{number}"],
                kernel_shape=layer.kernel,
                strides=layer.stride,
                pads=[*layer.padding, *layer.padding],
                dilations=layer.dilation,
                group=layer.groups,
            )
        )
        last = quantized(f"layer{number}")
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["means"]))
    nodes.append(helper.make_node("Identity", [quantized("means")], ["outputs"]))
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", variant.channels, *variant.size])
    found = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layers", [given], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _key(variant: Variant) -> str:
    return hashlib.sha256(TypeAdapter(Variant).dump_json(variant)).hexdigest()[:16]


def _machine_key(runtime: str, threads: int, batch: int) -> str:
    device = current_device()
    machine = device.name, device.instruction_sets, device.cores, *filter(None, [device.address])
    return hashlib.sha256(repr((*machine, runtime, device.runtime_version(runtime), threads, batch)).encode()).hexdigest()[:16]
