"""How much error quantization adds, layer by layer: the power of a layer's output over that of its difference from a reference."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planish.errors import ModelError
from planish.explain.model_file import Array, ModelFile
from planish.explain.source_graph import SourceGraph

Batches = Sequence[Mapping[str, Array]]
_STEPS = 5  # from a FakeQuantize to the multiplication that undoes its scale


@dataclass(frozen=True)
class Errors:
    """Signal-to-noise ratios in decibels: 20 dB is noise of a tenth of the signal's amplitude, each 6 dB more halve it.

    Args:
        final_db: of the model's output (the worst of them); infinite where nothing differs.
        layers_db: of layers' outputs, by name of the layer in the file. Errors of earlier layers are included.
        images: they were measured on.
        reference: what it is compared with, in words.
    """

    final_db: float
    layers_db: dict[str, float]
    images: int
    reference: str


class _Power:
    """Sums of squares over batches."""

    def __init__(self) -> None:
        self.signal: dict[str, float] = {}
        self.noise: dict[str, float] = {}

    def add(self, name: str, expected: Array, found: Array) -> None:
        if expected.shape != found.shape:
            return
        reference = expected.astype(np.float64)
        self.signal[name] = self.signal.get(name, 0.0) + float(np.square(reference).sum())
        self.noise[name] = self.noise.get(name, 0.0) + float(np.square(reference - found).sum())

    def db(self, name: str) -> float:
        if self.noise[name] == 0:
            return float("inf")
        return 10 * float(np.log10(max(self.signal[name], 1e-30) / self.noise[name]))


def measure_errors(model: ModelFile, batches: Batches, reference: Path | None = None) -> Errors | None:
    """Compare a quantized file with a reference on the same inputs.

    Args:
        model: the file, with Q/DQ pairs.
        batches: inputs by name.
        reference: the float ONNX file it was made from. Without it the reference is the file itself with its activations left unrounded,
            and the error is that of the activations alone.

    Returns:
        None where nothing in the file is rounded and there is no reference.

    Raises:
        ModelError: the reference takes other inputs.
    """
    exposed = _expose_onnx if model.path.suffix == ".onnx" else _expose_openvino
    with tempfile.TemporaryDirectory() as folder:
        run, plain, tensors, layers = exposed(model, Path(folder))
        if not tensors and reference is None:
            return None
        if reference is not None:
            plain = _reference(reference, [before for before, _ in tensors], Path(folder))
        power, finals = _Power(), set()
        for inputs in batches:
            try:
                expected = plain(inputs)
            except Exception as error:  # the bindings raise whatever they do
                raise ModelError(f"{reference} does not take what {model.path} takes", "a reference has the same inputs") from error
            found = run(inputs)
            for before, after in tensors:
                if before in expected:
                    power.add(before, expected[before], found[after])
            outputs = [name for name in found if name not in {after for _, after in tensors}]
            for i, name in enumerate(outputs):
                key = f"output {i}"
                finals.add(key)
                power.add(key, expected[name] if name in expected else list(expected.values())[i], found[name])
    layers_db: dict[str, float] = {}
    for before, _ in tensors:
        if before in power.noise and layers.get(before):
            layers_db.setdefault(layers[before], power.db(before))
    return Errors(
        final_db=min((power.db(key) for key in finals if key in power.noise), default=float("nan")),
        layers_db=layers_db,
        images=sum(len(next(iter(b.values()))) for b in batches),
        reference=str(reference) if reference else "the same file with unrounded activations",
    )


def _expose_onnx(model: ModelFile, folder: Path) -> Any:
    """The file with the dequantized tensors as outputs, its twin without Q/DQ pairs, their tensors, and the layer of each."""
    import onnx
    from onnx import TensorProto, helper

    source = SourceGraph(model.path)
    readers: dict[str, list[Any]] = {}
    for node in source.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    quantizers = [n for n in source.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in source.constants]
    pairs = {dq.output[0]: q.input[0] for q in quantizers for dq in readers.get(q.output[0], []) if dq.op_type == "DequantizeLinear"}
    outputs = [output.name for output in source.graph.output]
    inputs = {node.name for node in source.graph.input}
    tensors = list({before: (before, after) for after, before in pairs.items() if before not in inputs and after not in outputs}.values())

    def save(name: str, extra: Sequence[str], graph_model: Any) -> Any:
        graph_model.graph.output.extend(helper.make_tensor_value_info(e, TensorProto.FLOAT, None) for e in extra)
        onnx.save(graph_model, str(folder / name))
        session = model.onnxruntime_session(model.onnxruntime_options(), folder / name)
        names = [*outputs, *extra]
        return lambda fed: dict(zip(names, session.run(names, dict(fed)), strict=True))

    plain = copy.deepcopy(source.model)
    dropped = {
        id_ for q in quantizers for id_ in (q.name, *(dq.name for dq in readers.get(q.output[0], []) if dq.op_type == "DequantizeLinear"))
    }
    kept = [node for node in plain.graph.node if node.name not in dropped]
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = pairs.get(name, name)
    kept += [helper.make_node("Identity", [pairs[name]], [name]) for name in outputs if name in pairs]
    del plain.graph.node[:]
    plain.graph.node.extend(kept)
    layers = {before: origin.name if (origin := source.origin("", [before])) is not None else "" for before, _ in tensors}
    extra = [before for before, _ in tensors if before not in outputs]
    return save("quantized.onnx", [after for _, after in tensors], source.model), save("plain.onnx", extra, plain), tensors, layers


def _expose_openvino(model: ModelFile, folder: Path) -> Any:
    """The same for OpenVINO's files, whose pairs are ``FakeQuantize`` nodes and what undoes their scale."""
    tensors: list[tuple[str, str]] = []
    layers: dict[str, str] = {}
    loaded = {}
    for which in ("quantized", "plain"):
        graph = model.openvino_model()
        names = [node.get_any_name() for node in graph.outputs]
        for i, quantizer in enumerate(op for op in graph.get_ordered_ops() if op.get_type_name() == "FakeQuantize"):
            before, ends = quantizer.input_value(0), _dequantized(quantizer)
            if before.get_node().get_type_name() in ("Constant", "Parameter") or not ends:
                continue
            if which == "plain":
                for end in ends:
                    end.replace(before)
                names.append(f"{i} before")
                graph.add_outputs([before])
            else:
                known = sorted(before.get_names())
                tensors.append((known[0] if known else f"{i} before", f"{i} after"))
                layers[tensors[-1][0]] = _layer_above(before.get_node())
                names.append(f"{i} after")
                graph.add_outputs([ends[0]])
        loaded[which] = _openvino_runner(model, graph, names)
    renamed = {after.replace("after", "before"): before for before, after in tensors}

    def plain(fed: Mapping[str, Array]) -> dict[str, Array]:
        return {renamed.get(name, name): values for name, values in loaded["plain"](fed).items()}

    return loaded["quantized"], plain, tensors, layers


def _dequantized(quantizer: Any) -> list[Any]:
    """Where the values are back on their own scale: the quantizer itself, or the products behind its conversion to integers."""
    values = [np.asarray(quantizer.input_value(i).get_node().get_data()) for i in range(1, 5)]
    if values[0].shape == values[2].shape and np.allclose(values[0], values[2]) and np.allclose(values[1], values[3]):
        return [quantizer.output(0)]
    found, waiting = [], [quantizer.output(0)]
    for _ in range(_STEPS):
        readers = [end.get_node() for output in waiting for end in output.get_target_inputs()]
        found += [node.output(0) for node in readers if node.get_type_name() == "Multiply"]
        waiting = [node.output(0) for node in readers if node.get_type_name() in ("Convert", "Subtract")]
    return found


def _layer_above(node: Any) -> str:
    for _ in range(_STEPS):
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            return str(node.get_friendly_name())
        if node.get_input_size() == 0:
            return ""
        node = node.input_value(0).get_node()
    return ""


def _openvino_runner(model: ModelFile, graph: Any, names: list[str]) -> Any:
    order = [node.get_any_name() for node in graph.inputs]
    request = model.openvino_compiled(graph).create_infer_request()

    def run(fed: Mapping[str, Array]) -> dict[str, Array]:
        results = request.infer({i: fed[name] for i, name in enumerate(order)})
        return {name: np.array(results[i]) for i, name in enumerate(names)}

    return run


def _reference(path: Path, wanted: Sequence[str], folder: Path) -> Any:
    """The reference, with those of the wanted tensors that it has as further outputs."""
    import onnx
    from onnx import TensorProto, helper

    source, model = SourceGraph(path), ModelFile(path, "onnxruntime")
    outputs = [output.name for output in source.graph.output]
    extra = [name for name in dict.fromkeys(wanted) if name in source.made_by and name not in outputs]
    source.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in extra)
    onnx.save(source.model, str(folder / "reference.onnx"))
    session = model.onnxruntime_session(model.onnxruntime_options(), folder / "reference.onnx")
    names, inputs = [*outputs, *extra], [node.name for node in session.get_inputs()]

    def run(fed: Mapping[str, Array]) -> dict[str, Array]:
        by_position = dict(zip(inputs, fed.values(), strict=True))
        return dict(zip(names, session.run(names, by_position), strict=True))

    return run
