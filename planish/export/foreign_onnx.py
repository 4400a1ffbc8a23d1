"""ONNX files that Planish did not write: what they say of themselves, and the same network fed pixels as our own files are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import ModelError, first_line
from planish.evaluation.kernels import silent_options
from planish.export.onnx_file import pool_globally

if TYPE_CHECKING:
    from planish.artifact import InputSpec, Pixels, Preprocessing

_OPSET = 17  # what older files are brought to: scales per channel, which INT8 needs, came with 13
_OURS = "network."  # before every name of the foreign graph, as before those of the networks we export
_TOLERANCE = 1e-3  # of the largest output; the graph is rewritten, so float32 may be summed in another order
_EXPORT = "export it so, for example with torch.onnx.export(..., dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"


@dataclass(frozen=True)
class Foreign:
    """A classifier as its file describes it.

    Args:
        model: the file, an ``onnx.ModelProto`` with its weights.
        batch: images a call; None for any number.
        channels: of the images, 1 or 3.
        height: in pixels, None where the file leaves it open.
        width: likewise.
    """

    model: Any
    batch: int | None
    channels: int
    height: int | None
    width: int | None


def metadata_of(file: Path) -> dict[str, str]:
    """What an ONNX file says about itself; ours have keys that begin with ``planish.``.

    Raises:
        ModelError: it is no ONNX file.
    """
    import onnx

    try:
        return {p.key: p.value for p in onnx.load(str(file), load_external_data=False).metadata_props}
    except Exception as error:  # protobuf's own, and OSError
        raise ModelError(f"{file} cannot be read: {first_line(error)}", "it is an ONNX file") from error


def read_foreign(file: Path) -> Foreign:
    """Read a classifier's file.

    Raises:
        ModelError: it cannot be read, or its input is not one float tensor of images ``(N, C, H, W)``.
    """
    import onnx

    try:
        model = onnx.load(str(file))
    except Exception as error:  # protobuf's own, and what reading weights from other files raises
        raise ModelError(f"{file} cannot be read: {first_line(error)}", "it is an ONNX file, its weights in it or beside it") from error
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    said = ", ".join(f"{value.name} {_shape_words(value)}" for value in inputs) or "nothing"
    kind = inputs[0].type.tensor_type if len(inputs) == 1 else None
    if kind is None or kind.elem_type != onnx.TensorProto.FLOAT or len(kind.shape.dim) != 4:
        raise ModelError(f"{file} takes {said}", "a classifier takes one float32 tensor of images (N, C, H, W)", "export it so")
    batch, channels, height, width = (d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    if channels not in (1, 3):
        nhwc = "; for TensorFlow: tf2onnx --inputs-as-nchw" if width in (1, 3) else ""
        raise ModelError(f"{file} takes {said}", "images are (N, C, H, W) with C of 1 or 3", f"export it so{nhwc}")
    return Foreign(model, batch, channels, height, width)


def fed_pixels(foreign: Foreign, spec: InputSpec, preprocessing: Preprocessing, classes: int, sample: Pixels) -> tuple[Any, list[str]]:
    """The file with the normalisation in its graph: uint8 ``images`` ``(N, H, W, C)`` in, ``logits`` ``(N, classes)`` out, any N.

    What is written is compared with the file that was given, on real images.

    Args:
        foreign: the file.
        spec: what it shall be fed.
        preprocessing: whose ``mean`` and ``std`` it expects.
        classes: of the data.
        sample: images as it is fed them.

    Returns:
        An ``onnx.ModelProto``, and what was done, in words.

    Raises:
        ModelError: it does not run on such images, has other outputs than one number a class, or only takes batches of one size.
    """
    import onnx

    expected, name = _outputs(foreign, spec, preprocessing, classes, sample)
    model, notes = _renewed(foreign.model)
    if foreign.batch is not None:
        notes.append(f"it took {foreign.batch} images a call and now takes any number")
        _free_batch(model, foreign.batch)
    model = onnx.compose.add_prefix(model, _OURS)
    graph = model.graph
    softmax = _make_logits(graph, _OURS + name)
    if softmax:
        notes.append("its last softmax is left out: files return logits")
    _feed(graph, spec, preprocessing)
    pool_globally(graph)
    _drop_unused(graph)
    graph.ClearField("value_info")
    model.ClearField("metadata_props")
    (found,) = _run(model, "images", [sample])[0]
    if softmax:
        found = np.exp(found - found.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    if found.shape != expected.shape or not np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max():
        raise ModelError(
            f"{len(sample)} images at once do not get the answers that they get one by one",
            f"a file that ships takes any number of images, and this one was made for {foreign.batch or 'any'}", _EXPORT,
        )  # fmt: skip
    return model, notes


def _outputs(foreign: Foreign, spec: InputSpec, preprocessing: Preprocessing, classes: int, sample: Pixels) -> tuple[Any, str]:
    """What the file as it was given returns ``(N, classes)``, and the name of that output."""
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    images = ((sample.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    size = foreign.batch or 1
    known = {tensor.name for tensor in foreign.model.graph.initializer}
    taken = next(value.name for value in foreign.model.graph.input if value.name not in known)
    rows = _run(foreign.model, taken, [np.repeat(image[None], size, axis=0) for image in images])
    names = [output.name for output in foreign.model.graph.output]
    shapes = {name: values.shape[1:] for name, values in zip(names, rows[0], strict=True)}
    fitting = [name for name, shape in shapes.items() if shape == (classes,)]
    if not fitting:
        given = ", ".join(f"{name} (N, {', '.join(map(str, shape))})" for name, shape in shapes.items())
        raise ModelError(
            f"the file returns {given}, and the data has {classes} classes",
            "a classifier returns one number a class", "give the data it was trained for",
        )  # fmt: skip
    place = names.index(fitting[0])
    return np.concatenate([row[place][:1] for row in rows]), fitting[0]


def _run(model: Any, name: str, batches: Sequence[Any]) -> list[Any]:
    """All outputs for each batch."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), silent_options(), providers=["CPUExecutionProvider"])
        return [session.run(None, {name: batch}) for batch in batches]
    except Exception as error:  # its bindings raise many kinds without a common base
        taken = f"{batches[0].dtype} {batches[0].shape}"
        raise ModelError(f"ONNX Runtime does not run the file on {taken}: {first_line(error)}", "it must run on images") from error


def _renewed(model: Any) -> tuple[Any, list[str]]:
    """A copy in a version of ONNX's operators that has what INT8 needs."""
    import onnx

    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version >= 13:
        return _copy(model), []
    try:
        newer = onnx.version_converter.convert_version(model, _OPSET)
    except Exception as error:  # the converter raises RuntimeError for operators that it does not know
        return _copy(model), [f"its operators are of version {version} and stay so ({first_line(error)}); INT8 may not be possible"]
    return newer, [f"brought from version {version} of ONNX's operators to {_OPSET}"]


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _free_batch(model: Any, batch: int) -> None:
    """Let reshapes to a fixed batch take the batch that comes; changed in place."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: a.t for node in model.graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"
    }
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).copy()
        if len(shape) > 1 and shape[0] == batch:
            shape[0] = 0  # as it comes
            name = f"{node.output[0]}_any_batch"
            model.graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
            kept = [a for a in node.attribute if a.name != "allowzero"]
            node.ClearField("attribute")
            node.attribute.extend(kept)


def _make_logits(graph: Any, output: str) -> bool:
    """Make ``logits`` of one output, the only one from now on; whether a softmax was taken off it."""
    from onnx import TensorProto, helper

    made_by = {name: node for node in graph.node for name in node.output}
    while made_by[output].op_type == "Identity":
        output = made_by[output].input[0]
    softmax: bool = made_by[output].op_type == "Softmax"
    graph.node.append(helper.make_node("Identity", [made_by[output].input[0] if softmax else output], ["logits"], "logits"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    return softmax


def _feed(graph: Any, spec: InputSpec, preprocessing: Preprocessing) -> None:
    """Put the normalisation before the graph, in the form of ``onnx_file``: a product and a sum whose constants hold a row of pixels."""
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
    """Take out nodes and constants that the outputs do not need."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
            for attribute in node.attribute:  # the bodies of If and Loop read from around them
                for inner in (attribute.g, *attribute.graphs):
                    needed.update(name for part in inner.node for name in part.input)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def _shape_words(value: Any) -> str:
    from onnx import TensorProto

    kind = value.type.tensor_type
    sides = ", ".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim)
    return f"{TensorProto.DataType.Name(kind.elem_type).lower()} ({sides})"
