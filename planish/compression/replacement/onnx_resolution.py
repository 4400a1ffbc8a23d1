"""Change of the input resolution of an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from planish.artifact import Artifact, InputSpec
from planish.compression.graph.onnx_graph import set_metadata
from planish.devices.kernels import open_session, silent_options
from planish.errors import TechniqueError, first_line

if TYPE_CHECKING:
    from planish.artifact import Pixels


def resize_file(file: Path, before: InputSpec, artifact: Artifact) -> None:
    """Write ``artifact.files[0]``: the same graph for images of ``artifact.input_spec``.

    Args:
        file: the original file. It takes uint8 ``images`` ``(N, before.height, before.width, C)``, and its normalisation constants span one
            row of pixels.
        before: the input spec of the original file.
        artifact: the resulting artifact.

    Raises:
        TechniqueError: an operation of the graph runs only at the original size.
    """
    import onnx
    from onnx import numpy_helper

    spec = artifact.input_spec
    model = onnx.load(str(file))
    sides = model.graph.input[0].type.tensor_type.shape.dim
    sides[1].dim_value, sides[2].dim_value = spec.height, spec.width
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [1, 1, before.width, before.channels]:
            row = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(row[:, :, : spec.width]), tensor.name))
    model.graph.ClearField("value_info")
    set_metadata(model, model, artifact.lineage)
    properties = {p.key: p.value for p in model.metadata_props} | {"planish.input_spec": TypeAdapter(InputSpec).dump_json(spec).decode()}
    onnx.helper.set_model_props(model, properties)
    _try(model, np.zeros((2, spec.height, spec.width, spec.channels), np.uint8), len(artifact.class_names))
    onnx.save(model, str(artifact.files[0]))


def _try(model: Any, images: Pixels, classes: int) -> None:
    try:
        session = open_session(model.SerializeToString(), silent_options())
        shape = session.run(None, {"images": images})[0].shape
        reason = "" if shape == (len(images), classes) else f"it returns {shape}"
    except Exception as error:  # the bindings raise many exception types without a common base class
        reason = first_line(error)
    if reason:
        raise TechniqueError(
            f"the file does not run on {images.shape[1]} x {images.shape[2]} pixels: {reason}",
            "an operation in it was made for one size",
            "export the network for the size you want",
        )
