"""Profile of an ONNX file in ONNX Runtime: the profiler's times for the nodes of the optimized graph."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from planish.explanation.model_file import ModelFile, median_ms
from planish.explanation.profiles.macs import convolution_macs, einsum_macs, product_macs, transposed_macs
from planish.explanation.profiles.profile import ACTIVATIONS, CONVERSIONS, Kind, LayerProfile, Profile
from planish.explanation.profiles.source_graph import SourceGraph

_SECONDS = 1.0
_SUFFIX = "_kernel_time"
_WEIGHTS = {  # executed operations with weights, and the index of the input that holds them
    "Conv": 1, "FusedConv": 1, "NhwcFusedConv": 1, "ConvTranspose": 1, "MatMul": 1, "FusedMatMul": 1, "Gemm": 1, "FusedGemm": 1,
    "ConvInteger": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1,
    "MatMulNBits": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
_WITH_BODIES = ("If", "Loop", "Scan")
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8", "int8": "int8"}


def profile_onnxruntime(model: ModelFile) -> Profile:
    """Run the file with ONNX Runtime's profiler enabled.

    Raises:
        ExportError: the file cannot be loaded or run.
    """
    import onnx

    source = SourceGraph(model.path)
    inputs = model.random_inputs()
    run = model.load()
    latency_ms = median_ms(lambda: run(inputs))
    with tempfile.TemporaryDirectory() as folder:
        named, optimised = Path(folder) / "named.onnx", Path(folder) / "optimised.onnx"
        onnx.save(source.model, str(named))
        options = model.onnxruntime_options()
        options.log_severity_level = 4  # silences the warning that the optimized file is specific to this machine, which is intended
        options.optimized_model_filepath = str(optimised)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = model.onnxruntime_session(options, named)
        calls, end = 0, time.monotonic() + _SECONDS
        while calls < 10 or (calls < 300 and time.monotonic() < end):
            session.run(None, inputs)
            calls += 1
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(str(optimised)).graph
    types = source.activation_types()
    return Profile(
        runtime=model.runtime,
        threads=model.threads,
        batch=model.batch,
        latency_ms=latency_ms,
        layers=tuple(_layers(graph, events, source)),
        settings=model.all_settings,
        signed_activations=types.count("int8"),
        unsigned_activations=types.count("uint8"),
    )


def _layers(graph: Any, events: list[dict[str, Any]], source: SourceGraph) -> Iterable[LayerProfile]:
    nodes = {node.name: node for node in graph.node}
    made_by = {tensor: node.name for node in graph.node for tensor in node.output}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in _outer_events(events):
        found.setdefault((event["name"].removesuffix(_SUFFIX), event["args"].get("node_index", "")), []).append(event)
    claimed: set[str] = set()
    for (name, _), calls in found.items():  # in the order of the first call, which is the order of execution
        arguments = calls[-1]["args"]
        node, op = nodes.get(name), str(arguments["op_name"])
        read = [_shape_of(typed) for typed in arguments["input_type_shape"]]
        shape = _first_shape(arguments["output_type_shape"])
        known: dict[str, Any] = {}
        if op in _WEIGHTS and node is not None:
            executed = shapes.get(node.input[_WEIGHTS[op]], ())
            origin = source.origin(name, list(node.output))
            weights = source.weights(origin) if origin is not None and origin.name not in claimed else None
            if origin is not None and weights is not None:
                claimed.add(origin.name)
                known = {"weight": weights.shape, "weight_type": weights.type, "zeros": weights.zeros}
            known["source"] = origin.name if origin is not None else ""
            computed = source.computed_shape(origin) if origin is not None and "Conv" in op else ()
            known["macs"] = _macs(op, read, shape, executed, known.get("weight", computed))
        elif op == "Einsum" and node is not None:
            known["macs"] = einsum_macs(next(a.s.decode() for a in node.attribute if a.name == "equation"), read)
        inputs = () if node is None else tuple(dict.fromkeys(made_by[tensor] for tensor in node.input if tensor in made_by))
        yield LayerProfile(
            name=name,
            op=op,
            kind=_kind(op, node, known.get("weight", ())),
            ms=_middle([call["dur"] for call in calls]) / 1e3,
            precision=_precision(arguments),
            shape=shape,
            inputs=inputs,
            **known,
        )


def _outer_events(events: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The profiler's events of executed nodes in order, without nodes in the bodies of others, whose time is part of theirs."""
    timed = (event for event in events if event["cat"] == "Node" and event["name"].endswith(_SUFFIX))
    end = 0
    for event in sorted(timed, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= end:
            yield event
            if event["args"]["op_name"] in _WITH_BODIES:
                end = event["ts"] + event["dur"]


def _middle(times: list[float]) -> float:
    """Return the mean of the middle half: times in whole microseconds are too coarse for a median, and outliers distort a plain mean."""
    ordered = np.sort(np.array(times[3:] or times, dtype=float))  # the first calls warm up
    return float(ordered[len(ordered) // 4 : max(1, len(ordered) - len(ordered) // 4)].mean())


def _first_shape(typed: list[dict[str, list[int]]]) -> tuple[int, ...]:
    return _shape_of(typed[0]) if typed else ()


def _shape_of(typed: dict[str, list[int]]) -> tuple[int, ...]:
    return tuple(next(iter(typed.values()))) if typed else ()


def _precision(arguments: dict[str, Any]) -> str:
    """Return a node's precision, from the type of its first input."""
    typed = arguments["input_type_shape"] or arguments["output_type_shape"]
    if arguments["op_name"] == "DynamicQuantizeMatMul":
        return "int8"
    first = next(iter(typed[0])) if typed and typed[0] else ""
    return _PRECISIONS.get(first, first)


def _macs(op: str, read: list[tuple[int, ...]], made: tuple[int, ...], executed: tuple[int, ...], weight: tuple[int, ...]) -> int:
    """Return the MACs of a layer.

    Args:
        op: the executed operation.
        read: shapes of the inputs, without those that a kernel packed in advance.
        made: shape of the output.
        executed: shape of the weight in the optimized graph, whose channels may be padded; empty if the weight is computed.
        weight: shape of the weight in the file; empty if unknown.
    """
    if "Conv" not in op:
        return product_macs(read[0], made) if read else 0
    executed = executed or weight or (read[1] if len(read) > 1 and len(read[1]) > 2 else ())
    if not executed or not read:
        return 0
    weight = weight or executed
    return transposed_macs(read[0], weight) if op == "ConvTranspose" else convolution_macs(made, executed[0], weight)


def _kind(op: str, node: Any, weight: tuple[int, ...]) -> Kind:
    if op in _WEIGHTS or op == "Einsum":
        grouped = node is not None and any(a.name == "group" and a.i > 1 for a in node.attribute)
        return "linear" if "Conv" not in op else "depthwise" if grouped and len(weight) > 2 and weight[1] == 1 else "convolution"
    return "activation" if op in ACTIVATIONS else "conversion" if op in CONVERSIONS else "other"
