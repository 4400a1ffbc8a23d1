"""Profile of a file in OpenVINO: its performance counters for the nodes of the executed graph."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from planish.explanation.model_file import Array, ModelFile, median_ms
from planish.explanation.profiles.macs import convolution_macs, product_macs, transposed_macs
from planish.explanation.profiles.profile import ACTIVATIONS, CONVERSIONS, Kind, LayerProfile, Profile
from planish.export.runtimes.openvino import port_name

_SECONDS = 1.0
_LAYERS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}


def profile_openvino(model: ModelFile) -> Profile:
    """Run the file with OpenVINO's performance counters enabled.

    Raises:
        ExportError: the file cannot be loaded or run.
    """
    inputs = model.random_inputs()
    run = model.load()
    latency_ms = median_ms(lambda: run(inputs))
    graph = model.openvino_model()
    zeros = _zeros(graph)
    compiled = model.openvino_compiled(graph, PERF_COUNT=True)
    request = compiled.create_infer_request()
    ordered = {i: inputs[port_name(node)] for i, node in enumerate(compiled.inputs)}
    calls, end = 0, time.monotonic() + _SECONDS
    while calls < 10 or (calls < 300 and time.monotonic() < end):
        request.infer(ordered, share_inputs=True)
        calls += 1
    times = {p.node_name: p.real_time.total_seconds() * 1e3 for p in request.get_profiling_info()}
    nodes = compiled.get_runtime_model().get_ordered_ops()
    hidden = {"Input", "Output", "Const", "Parameter", "Result"}
    executed = {node.get_friendly_name() for node in nodes if _info(node, "layerType") not in hidden}
    return Profile(
        runtime=model.runtime,
        threads=model.threads,
        batch=model.batch,
        latency_ms=latency_ms,
        layers=tuple(
            _layer(node, times.get(node.get_friendly_name(), 0.0), executed, zeros)
            for node in nodes
            if node.get_friendly_name() in executed
        ),
        settings=model.all_settings,
    )


def _layer(node: Any, ms: float, executed: set[str], zeros: dict[str, float]) -> LayerProfile:
    op, source = _info(node, "layerType"), in_file(_info(node, "originalLayersNames").partition(",")[0])
    shape = tuple(node.output(0).get_shape())
    above = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    weight: tuple[int, ...] = ()
    known: dict[str, Any] = {}
    if op in _LAYERS:
        constant = above[1] if len(above) > 1 and _info(above[1], "layerType") == "Const" else None
        weight = tuple(node.input_value(1).get_shape()) if constant is not None else ()
        known["macs"] = _macs(op, shape, tuple(node.input_value(1).get_shape()), tuple(node.input_value(0).get_shape()))
        if constant is not None:
            known |= {"weight": _flat_groups(weight), "weight_type": _info(constant, "outputPrecisions")}
            known["zeros"] = zeros.get(source, 0.0)
    return LayerProfile(
        name=node.get_friendly_name(),
        op=op,
        kind=_kind(op, weight),
        ms=ms,
        precision=_PRECISIONS.get(_info(node, "runtimePrecision"), _info(node, "runtimePrecision")),
        shape=shape,
        kernel=_info(node, "primitiveType"),
        source=source,
        inputs=tuple(dict.fromkeys(n.get_friendly_name() for n in above if n.get_friendly_name() in executed)),
        **known,
    )


def in_file(name: str) -> str:
    """Return the name of a layer in the file, from its name after OpenVINO split off the bias."""
    return name.removesuffix("/WithoutBiases")


def _info(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def _zeros(graph: Any) -> dict[str, float]:
    """Return the share of zero weights by layer of the file; the executed graph does not contain their values."""
    found = {}
    for layer in graph.get_ordered_ops():
        if layer.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        node, zero_point = layer.input_value(1).get_node(), None
        while node.get_type_name() != "Constant" and node.get_input_size():
            if node.get_type_name() == "Subtract":
                zero_point = _constant(node.input_value(1).get_node())
            node = node.input_value(0).get_node()
        values = _constant(node)
        if values is not None and values.size:
            found[in_file(layer.get_friendly_name())] = float((values == (0 if zero_point is None else zero_point)).mean())
    return found


def _constant(node: Any) -> Array | None:
    """Return the values of a constant, also of one that is converted or reshaped; None for others, and for types with values of 4 bits."""
    shape = tuple(node.get_output_shape(0))
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    values = np.asarray(node.get_data()) if node.get_type_name() == "Constant" else None
    return None if values is None or values.size != math.prod(shape) else values.reshape(shape)


def _macs(op: str, made: tuple[int, ...], weight: tuple[int, ...], read: tuple[int, ...]) -> int:
    """Return the MACs of a layer; ``weight`` is the shape in the executed graph, where groups are a separate dimension."""
    if op == "Convolution":
        return convolution_macs(made, made[1] if len(made) > 1 else 0, weight)
    return transposed_macs(read, weight) if op == "Deconvolution" else product_macs(read, made)


def _flat_groups(weight: tuple[int, ...]) -> tuple[int, ...]:
    """Convert OpenVINO's ``(groups, C_out / groups, C_in / groups, H, W)`` to ``(C_out, C_in / groups, H, W)``."""
    return (weight[0] * weight[1], *weight[2:]) if len(weight) == 5 else weight


def _kind(op: str, weight: tuple[int, ...]) -> Kind:
    if op in _LAYERS:
        if op not in ("Convolution", "Deconvolution"):
            return "linear"
        return "depthwise" if len(weight) == 5 and weight[1] == weight[2] == 1 else "convolution"
    return "activation" if op in ACTIVATIONS else "conversion" if op in CONVERSIONS else "other"
