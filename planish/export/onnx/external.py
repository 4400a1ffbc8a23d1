"""ONNX files from other exporters: their metadata, and the same network rewritten to take pixels like the files of Planish."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import TypeAdapter

from planish.artifact import InputSpec, Preprocessing
from planish.devices.isolation import call_isolated
from planish.devices.kernels import open_session, silent_options
from planish.errors import ModelError, first_line
from planish.export.onnx.cleanup import add_prefix, clean_up, free_batch
from planish.export.onnx.onnx_file import pool_globally
from planish.export.runtimes.first_load import limits_for
from planish.files.mistaken_files import mistaken_file
from planish.files.onnx_nodes import inline_functions, name_nodes, tensors_read
from planish.files.onnx_reading import data_files, read_onnx
from planish.files.reading import DAMAGED, describe, require_regular
from planish.task import OUTPUTS

if TYPE_CHECKING:
    from planish.artifact import Pixels

_OPSET = 17  # older files are converted to it; scales per channel, which INT8 needs, exist since 13
_OURS = "network."  # prefix of all names of the external graph, as in the networks that Planish exports
_TOLERANCE = 1e-3  # of the largest output; the graph is rewritten, so float32 may be summed in another order
_ROUNDING = 1e-3  # largest error of a sum of probabilities, also in half precision
_LEAST, _MOST = 1e-12, 1 - 2**-24  # smallest probability, for the logarithm; largest one below 1 in float32
_SURE = 8.0  # log odds from which a float32 probability is too near to 0 or 1 to determine them
USUAL_BATCH = 64  # larger static batch sizes do not raise the limits of the process further
_KEEPS_NUMBERS = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Dropout")
_FUSED = ("Conv", "FusedConv", "FusedGemm", "FusedMatMul", "ReorderInput", "ReorderOutput")  # Conv: of com.microsoft.nchwc
Kind = Literal["scores", "probabilities", "sigmoids"]
_EXPORT = "export it so, for example with torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"


@dataclass(frozen=True)
class ExternalModel:
    """A classifier in an ONNX file from another exporter.

    Args:
        file: its path.
        model: its content in float32 and ONNX's own operators, an ``onnx.ModelProto`` with the weights.
        batch: static batch size; None if it is dynamic.
        channels: of the images, 1 or 3; None if dynamic.
        height: in pixels; None if dynamic.
        width: in pixels; None if dynamic.
        quantized: its content as it was if it is quantized; None if it is not.
    """

    file: Path
    model: Any
    batch: int | None
    channels: int | None
    height: int | None
    width: int | None
    quantized: Any = None


def metadata_of(file: Path) -> dict[str, str]:
    """The metadata of an ONNX file; in those of Planish the keys begin with ``planish.``.

    Raises:
        ModelError: it is not an ONNX file.
    """
    import onnx

    if file.is_file() and (found := mistaken_file(file)):
        raise ModelError(f"{file} {found[0]}", "a network is an ONNX file", found[1])
    if file.is_file() and zipfile.is_zipfile(file):
        raise ModelError(f"{file} is a zip archive, as torch.save writes", "a network is an ONNX file", "export it: torch.onnx.export")
    try:
        require_regular(file)
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf's own exceptions, and OSError
        raise ModelError(
            f"{file} cannot be read: {first_line(error)}", "a network is a whole ONNX file", "download or export it again"
        ) from error
    return {p.key: p.value for p in model.metadata_props}


def read_external(file: Path) -> ExternalModel:
    """Read a classifier's file. Quantized layers are made float layers, and those that ONNX Runtime has fused are taken apart.

    Raises:
        ModelError: it cannot be read, or its input is not one float tensor of images ``(N, C, H, W)`` or ``(N, H, W, C)``; a transpose is
            added to the latter.
    """
    import onnx

    from planish.models.onnx.dequantization import dequantize, is_quantized
    from planish.models.onnx.unfusing import unfuse

    model = read_onnx(file)
    _require_text(model, file)
    given = inline_functions(model)
    name_nodes(given.graph)  # ONNX Runtime refuses files in which two nodes have the same name
    model = dequantize(unfuse(given))
    _refuse_nodes(model, file)
    quantized = given if any(is_quantized(node.op_type) for node in given.graph.node) else None
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    inputs_text = ", ".join(f"{value.name} {_shape_words(value)}" for value in inputs) or "nothing"
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    if kind is None or kind.elem_type not in floats or len(kind.shape.dim) != 4:
        raise ModelError(f"{file} takes {inputs_text}", "a classifier takes one float tensor of images (N, C, H, W)", "export it so")
    for dim in kind.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value <= 0:  # as some exporters write what is dynamic
            dim.ClearField("dim_value")
    if [kind.shape.dim[axis].dim_value in (1, 3) for axis in (1, 3)] == [False, True]:
        for each in (model,) if quantized is None else (model, quantized):
            _take_channels_first(each.graph, next(value for value in each.graph.input if value.name == inputs[0].name))
        kind = inputs[0].type.tensor_type
    batch, channels, height, width = (d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    if channels not in (1, 3, None):
        raise ModelError(f"{file} takes {inputs_text}", "images are (N, C, H, W) or (N, H, W, C), with C of 1 or 3", "export it so")
    return ExternalModel(file, model, batch, channels, height, width, quantized)


def _take_channels_first(graph: Any, taken: Any) -> None:
    """Let a graph of images (N, H, W, C), as exported from Keras, take (N, C, H, W); changes ``graph`` and its input ``taken`` in place."""
    from onnx import helper

    inner = f"{taken.name}_channels_last"
    for node in graph.node:
        node.input[:] = [inner if name == taken.name else name for name in node.input]
    transpose = helper.make_node("Transpose", [taken.name], [inner], inner, perm=[0, 2, 3, 1])
    nodes = [transpose, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    sides = list(taken.type.tensor_type.shape.dim)
    dims = [type(side).FromString(side.SerializeToString()) for side in sides]
    for side, axis in zip(sides, (0, 3, 1, 2), strict=True):
        side.CopyFrom(dims[axis])


def _require_text(model: Any, file: Path) -> None:
    """Require that all names of the graph are text: protobuf returns bytes for those that are not UTF-8.

    Raises:
        ModelError: one of them is not.
    """
    names = [text for n in model.graph.node for text in (n.op_type, n.domain, n.name, *n.input, *n.output)]
    names += [value.name for values in (model.graph.input, model.graph.output, model.graph.initializer) for value in values]
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise ModelError(
            f"{file} has a name that is not UTF-8: {wrong!r:.60}", "names in ONNX files are text", "download or export it again"
        )


def _refuse_nodes(model: Any, file: Path) -> None:
    """Refuse files that were exported in training mode, optimized for one runtime, or quantized in a way that is not covered.

    Raises:
        ModelError: the file is one of these.
    """
    training = [
        node.name or node.output[0]
        for node in model.graph.node
        if node.op_type == "BatchNormalization" and (len(node.output) > 1 or any(a.name == "training_mode" and a.i for a in node.attribute))
    ]
    if training:
        raise ModelError(
            f"{len(training)} batch norm nodes of {file} are in training mode, for example {training[0]}",
            "they normalise by the images of the batch, not by what was learned", "call eval() before you export it",
        )  # fmt: skip
    fused = {node.op_type for node in model.graph.node if node.domain.startswith("com.microsoft") and node.op_type in _FUSED}
    if fused:
        raise ModelError(
            f"ONNX Runtime has optimized {file} for itself: it has {', '.join(sorted(fused))}",
            "such layers are neither quantized nor read by other runtimes", "give the file before it was optimized",
        )  # fmt: skip
    from planish.models.onnx.dequantization import is_quantized

    if left := [f"{node.op_type} (node {node.name})" for node in model.graph.node if is_quantized(node.op_type)]:
        raise ModelError(
            f"{file} is quantized, and these operators cannot be read back to float32: {', '.join(left[:3])}",
            "all is compared with a float32 original", "give the file before it was quantized",
        )  # fmt: skip


def write_with_normalisation(
    foreign: ExternalModel,
    fed: Path,
    spec: InputSpec,
    preprocessing: Preprocessing,
    classes: int | None,
    sample: Pixels,
    labels: Sequence[int],
) -> tuple[str, ...]:
    """Write the file with the normalisation in its graph: from uint8 ``images`` ``(N, H, W, C)`` to ``logits`` ``(N, classes)``, any N.

    The file is read, rewritten, run and compared with the original in a separate process, since damaged files can crash the C++ libraries
    that do this.

    Args:
        foreign: the original file.
        fed: path of the new file.
        spec: input of the new file.
        preprocessing: with the ``mean`` and ``std`` that the original expects.
        classes: number of classes of the data; None if it is not known.
        sample: inputs of the new file.
        labels: classes of the sample ``(N,)``, used to choose one of several outputs; empty if they are not known.

    Returns:
        Notes on the changes.

    Raises:
        ModelError: it does not run on such images, does not return one value per class, or only works with one batch size.
        ExportError: it crashes the libraries that read it, or takes too long.
    """
    file, pixels = foreign.file, fed.with_suffix(".npy")
    arguments = {
        "file": str(file), "fed": str(fed), "spec": TypeAdapter(InputSpec).dump_json(spec).decode(),
        "preprocessing": TypeAdapter(Preprocessing).dump_json(preprocessing).decode(), "classes": classes, "sample": str(pixels),
        "labels": [int(label) for label in labels],
    }  # fmt: skip
    size = sum(part.stat().st_size for part in (file, *data_files(file)))
    limits = limits_for(size, sample.size * min(foreign.batch or 1, USUAL_BATCH))
    np.save(pixels, sample)
    try:
        return tuple(call_isolated("planish.export.onnx.external:rewrite", arguments, f"{file} in onnxruntime", limits))
    finally:
        pixels.unlink()


def rewrite(file: str, fed: str, spec: str, preprocessing: str, classes: int | None, sample: str, labels: Sequence[int]) -> list[str]:
    """The part of ``write_with_normalisation`` that runs in the separate process; its arguments are JSON values."""
    import onnx

    foreign, images = read_external(Path(file)), np.load(sample, allow_pickle=False)
    fed_spec, how = TypeAdapter(InputSpec).validate_json(spec), TypeAdapter(Preprocessing).validate_json(preprocessing)
    model, notes = add_normalisation(foreign, fed_spec, how, classes, images, np.array(labels))
    onnx.save(model, fed)
    return notes


def add_normalisation(
    foreign: ExternalModel, spec: InputSpec, preprocessing: Preprocessing, classes: int | None, sample: Pixels, labels: Any
) -> tuple[Any, list[str]]:
    """Make the model that ``write_with_normalisation`` writes, with the same arguments and errors.

    Returns:
        The model, and notes on the changes.
    """
    model, notes = _renewed(foreign.model)
    before = len(notes)
    try:
        notes += clean_up(model)
    except DAMAGED as error:
        raise ModelError(f"the network of this ONNX file makes no sense: {describe(error)}", "its nodes must fit its tensors") from error
    reference = _copy(model) if len(notes) > before else foreign.model  # half-precision files are compared in float32
    values = outputs_one_by_one(reference, foreign.batch or 1, spec, preprocessing, sample)
    name, more = _logits_output(values, classes, labels)
    notes += more
    expected = values[name].reshape(len(sample), -1)
    if foreign.quantized is not None:
        rounded = outputs_one_by_one(foreign.quantized, foreign.batch or 1, spec, preprocessing, sample)[name].reshape(len(sample), -1)
        same = int((rounded.argmax(1) == expected.argmax(1)).sum())
        notes.append(
            "it is quantized: its weights are dequantized, and its activations are computed in float32; "
            f"{same} of {len(sample)} images get the class that they got before"
        )
    if foreign.batch is not None:
        notes.append(f"it took a batch size of {foreign.batch} and now takes any")
        free_batch(model.graph, foreign.batch)
    graph = model.graph
    add_prefix(graph, _OURS)
    kind = _kind_of(expected)
    expected = _as_logits(expected, kind)
    notes += _make_logits(graph, _OURS + name, kind, values[name].ndim > 2)
    _feed(graph, spec, preprocessing)
    pool_globally(graph)
    _drop_unused(graph)
    graph.ClearField("value_info")
    model.ClearField("metadata_props")
    rule = f"a file that ships takes any number of images, and this one was made for {foreign.batch or 'any'}"
    try:
        (found,) = _run(model, "images", [sample])[0]
    except ModelError as error:
        raise ModelError(f"the file does not take {len(sample)} images at once: {error.received}", rule, _EXPORT) from error
    if found.shape == expected.shape:
        found, expected = (_determined(values, kind) for values in (found, expected))
    if found.shape != expected.shape or not np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max():
        raise ModelError(f"{len(sample)} images at once do not get the answers that they get one by one", rule, _EXPORT)
    return model, notes


def outputs_one_by_one(model: Any, batch: int, spec: InputSpec, preprocessing: Preprocessing, sample: Pixels) -> dict[str, Any]:
    """The outputs of a file that are tensors by name, one row per image, computed one image at a time."""
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    images = ((sample.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    known = {tensor.name for tensor in model.graph.initializer}
    taken = next(value.name for value in model.graph.input if value.name not in known)
    rows = _run(model, taken, [np.repeat(image[None], batch, axis=0) for image in images])
    tensors = {output.name: i for i, output in enumerate(model.graph.output) if isinstance(rows[0][i], np.ndarray)}
    return {name: np.concatenate([np.atleast_1d(row[i])[:1] for row in rows]) for name, i in tensors.items()}


def _logits_output(values: Mapping[str, Any], classes: int | None, labels: Any) -> tuple[str, list[str]]:
    """The name of the output with one value per class, and notes for the user.

    Of several, the one that is correct for most images is chosen, then one that does not contain probabilities, then the first.
    """
    given = (
        ", ".join(f"{name} {v.dtype.name} (N{''.join(f', {side}' for side in v.shape[1:])})" for name, v in values.items()) or "no tensor"
    )
    scores = [name for name, v in values.items() if v.dtype.kind == "f" and v.ndim > 1 and v.shape[1] == v[0].size]
    fitting = [name for name in scores if (values[name].shape[1] > 1 if classes is None else values[name].shape[1] == classes)]
    if not fitting:
        if any(v.dtype.kind in "iu" and v[0].size == 1 for v in values.values()):
            raise ModelError(
                f"the file returns {given}: labels, not scores", "a classifier returns one float per class", "export it without its argmax"
            )
        single = classes == 2 and any(v.dtype.kind == "f" and v[0].size == 1 for v in values.values())
        if classes is None:
            raise ModelError(
                f"the file returns {given}",
                "a classifier returns one float per class, for two classes or more",
                f"planish optimize --task {OUTPUTS} compares the outputs of any network as they are, on images without labels",
            )
        raise ModelError(
            f"the file returns {given}, and the data has {classes} classes", "a classifier returns one float per class",
            "export both logits, for example torch.cat([-z / 2, z / 2], 1)" if single else
            f"give the data it was trained for; if it is no classifier: planish optimize --task {OUTPUTS}",
        )  # fmt: skip
    if broken := [name for name in fitting if not np.isfinite(values[name]).all()]:
        raise ModelError(f"its output {broken[0]} is NaN or infinite for real images", "outputs are finite", "look at its weights")

    def fitness(name: str) -> tuple[int, bool]:
        rows = values[name].reshape(len(values[name]), -1)
        return int((rows.argmax(axis=1) == labels).sum()) if len(labels) else 0, _kind_of(rows) == "scores"

    chosen = max(fitting, key=fitness)
    others = [name for name in fitting if name != chosen]
    return chosen, [f"it has {len(fitting)} outputs of one number per class: {chosen} is taken, not {', '.join(others)}"] * bool(others)


def _kind_of(values: Any) -> Kind:
    """The kind of an output ``(N, classes)``, determined from its values."""
    if values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING:
        return "scores"
    return "probabilities" if np.abs(values.sum(axis=1) - 1).max() <= len(values[0]) * _ROUNDING else "sigmoids"


def _as_logits(values: Any, kind: Kind) -> Any:
    if kind == "scores":
        return values
    values = np.clip(values, _LEAST, _MOST if kind == "sigmoids" else None)
    return np.log(values) - (np.log1p(-values) if kind == "sigmoids" else 0)


def _determined(logits: Any, kind: Kind) -> Any:
    """The logits ``(N, classes)`` as far as float32 probabilities determine them: for ``probabilities`` up to a constant per image, and
    bounded where probabilities are too near to 0 or 1."""
    if kind == "sigmoids":
        return np.clip(logits, -_SURE, _SURE)
    return logits if kind == "scores" else np.maximum(logits - logits.max(axis=1, keepdims=True), np.log(_LEAST * logits.shape[1]))


def _run(model: Any, name: str, batches: Sequence[Any]) -> list[Any]:
    """The list of outputs for each batch."""
    try:
        session = open_session(model.SerializeToString(), silent_options())
        return [session.run(None, {name: batch}) for batch in batches]
    except Exception as error:  # its bindings raise many types without a common base class
        taken = f"{batches[0].dtype} {batches[0].shape}"
        raise ModelError(f"ONNX Runtime does not run the file on {taken}: {first_line(error)}", "it must run on images") from error


def _renewed(model: Any) -> tuple[Any, list[str]]:
    """A copy of the model, converted to an opset that supports INT8 if possible, and notes on that."""
    import onnx

    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= 13:
        return _copy(model), []
    try:
        newer = onnx.version_converter.convert_version(model, _OPSET)
    except Exception as error:  # the converter raises RuntimeError for unknown operators
        return _copy(model), [f"its operators are of version {version} and stay so ({first_line(error)}); INT8 may not be possible"]
    return newer, [f"brought from version {version} of ONNX's operators to {_OPSET}"]


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _make_logits(graph: Any, output: str, kind: Kind, flatten: bool) -> list[str]:
    """Convert one output to ``logits`` ``(N, classes)`` and remove all others; returns notes on the changes."""
    from onnx import TensorProto, helper, numpy_helper

    made_by = {name: node for node in graph.node for name in node.output}
    end, source = output, output
    while kind != "scores" and source in made_by and made_by[source].op_type in _KEEPS_NUMBERS:
        source = made_by[source].input[0]
    notes = []
    last = made_by[source].op_type if source in made_by else ""
    if kind != "scores" and last == {"probabilities": "Softmax", "sigmoids": "Sigmoid"}[kind]:
        end, flatten = made_by[source].input[0], True
        notes.append(f"its last {last.lower()} is left out: files return logits")
    elif kind != "scores":
        graph.initializer.append(numpy_helper.from_array(np.array(_LEAST, np.float32), "least_probability"))
        graph.initializer.append(numpy_helper.from_array(np.array(_MOST if kind == "sigmoids" else 1, np.float32), "most_probability"))
        graph.node.append(helper.make_node("Clip", [end, "least_probability", "most_probability"], ["probabilities"], "probabilities"))
        graph.node.append(helper.make_node("Log", ["probabilities"], ["log_probabilities"], "log_probabilities"))
        end = "log_probabilities"
        if kind == "sigmoids":
            graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
            graph.node.append(helper.make_node("Sub", ["one", "probabilities"], ["complements"], "complements"))
            graph.node.append(helper.make_node("Log", ["complements"], ["log_complements"], "log_complements"))
            graph.node.append(helper.make_node("Sub", [end, "log_complements"], ["log_odds"], "log_odds"))
            end = "log_odds"
        notes.append(f"it returns {kind}: their logarithm is taken, as files return logits")
    if kind == "sigmoids":
        notes.append("it judges each class by itself: the most likely one is the answer, and its probability is not the file's own")
    if flatten:
        graph.node.append(helper.make_node("Flatten", [end], ["logits"], "logits", axis=1))
    else:
        graph.node.append(helper.make_node("Identity", [end], ["logits"], "logits"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    return notes


def _feed(graph: Any, spec: InputSpec, preprocessing: Preprocessing) -> None:
    """Add the normalisation in front of the graph, as in ``onnx_file``: a product and a sum whose constants span a row of pixels."""
    from onnx import TensorProto, helper, numpy_helper

    known = {tensor.name for tensor in graph.initializer}
    taken = next(value.name for value in graph.input if value.name not in known)
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    for name, values in (("scale", 1 / (255 * std)), ("shift", -mean / std)):
        row = np.broadcast_to(values.astype(np.float32), (1, 1, spec.width, spec.channels))
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(row), name))
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "scale"], ["scaled"], "scaling"),
        helper.make_node("Add", ["scaled", "shift"], ["normalised"], "shifting"),
        helper.make_node("Transpose", ["normalised"], [taken], "to_nchw", perm=[0, 3, 1, 2]),
        *graph.node,
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", spec.height, spec.width, spec.channels]))


def _drop_unused(graph: Any) -> None:
    """Remove nodes and constants that the outputs do not depend on."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= tensors_read([node])
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _shape_words(value: Any) -> str:
    from onnx import TensorProto

    kind = value.type.tensor_type
    sides = ", ".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim)
    known = {number: name.lower() for name, number in TensorProto.DataType.items()}
    return f"{known.get(kind.elem_type, f'type {kind.elem_type}')} ({sides})"
