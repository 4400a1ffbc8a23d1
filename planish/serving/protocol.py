"""The Open Inference Protocol, version 2: what Triton's and KServe's clients speak. Bytes to arrays and back.

https://github.com/kserve/open-inference-protocol, and Triton's extension for binary tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import DataError
from planish.serving.model import ServedModel

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

INPUT = "images"
_DATATYPES = {  # the protocol's names, by numpy's
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
HEADER_LENGTH = "Inference-Header-Content-Length"


def model_metadata(model: ServedModel, versions: list[str]) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": f"planish_{model.bundle.runtime}",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}],
        "outputs": [
            {"name": name, "datatype": _DATATYPES[dtype.name], "shape": [-1, *shape]} for name, (dtype, shape) in model.outputs.items()
        ],
    }


def read_request(body: bytes, header_length: str | None, shape: tuple[int, ...]) -> tuple[Pixels, dict[str, Any]]:
    """The images of a request, and the request's JSON.

    Args:
        body: JSON, then binary data where ``header_length`` says so.
        header_length: bytes of the JSON; None for all.
        shape: of one image, ``(H, W, C)``.

    Raises:
        DataError: it is not such a request, or its images are of another shape or type.
    """
    length = len(body)
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,18}", header_length) or int(header_length) > len(body):
            raise DataError(f"{HEADER_LENGTH} is {header_length[:20]!r}", f"it is a number of bytes, at most {len(body)} here")
        length = int(header_length)
    try:
        request = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise DataError("the request is not JSON", "see the Open Inference Protocol, version 2") from error
    given = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict) or given[0].get("name") != INPUT:
        raise DataError("the request has other inputs", f"it has one, called {INPUT!r}")
    tensor = given[0]
    found = tensor.get("shape")
    right = isinstance(found, list) and all(type(n) is int for n in found) and tuple(found[1:]) == shape and 0 < found[0] <= len(body)
    if not right or tensor.get("datatype") != "UINT8":
        raise DataError(
            f"{INPUT!r} is {str(tensor.get('datatype'))[:20]} {str(found)[:60]}", f"it must be UINT8 [N, {', '.join(map(str, shape))}]"
        )
    assert found is not None
    return _pixels(tensor, body[length:], found), request


def _pixels(tensor: Mapping[str, Any], binary: bytes, shape: list[int]) -> Pixels:
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = math.prod(shape)
    if size is not None:
        if type(size) is not int or size != len(binary) or size != count:
            raise DataError(f"{len(binary)} bytes of binary data, said to be {str(size)[:20]}", f"the shape needs {count}")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    try:
        values = np.asarray(tensor.get("data"))
    except (ValueError, OverflowError) as error:
        raise DataError("the data are ragged or too large", "they are numbers from 0 to 255") from error
    if values.size != count or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise DataError(f"{values.size} values of type {values.dtype}", f"{count} whole numbers from 0 to 255 are needed")
    return values.astype(np.uint8).reshape(shape)


def write_response(model: ServedModel, outputs: Outputs, request: Mapping[str, Any]) -> tuple[bytes, int | None]:
    """The response's body, and the bytes of its JSON where binary data follow it."""
    wanted = _wanted(request, outputs)
    parts, blobs = [], []
    for name, as_binary in wanted.items():
        values = np.ascontiguousarray(outputs[name])
        part: dict[str, Any] = {"name": name, "datatype": _DATATYPES[values.dtype.name], "shape": list(values.shape)}
        if as_binary:
            blobs.append(values.tobytes())
            part["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            part["data"] = values.ravel().tolist()
        parts.append(part)
    answer = {"model_name": model.name, "model_version": model.version, "outputs": parts}
    if isinstance(request.get("id"), str):
        answer["id"] = request["id"]
    head = json.dumps(answer).encode()
    return head + b"".join(blobs), len(head) if blobs else None


def _wanted(request: Mapping[str, Any], outputs: Outputs) -> dict[str, bool]:
    """Names of the outputs to send, and whether as binary data."""

    def flag(holder: Any, key: str, default: bool) -> bool:
        parameters = holder.get("parameters") if isinstance(holder, Mapping) else None
        return bool(parameters.get(key, default)) if isinstance(parameters, dict) else default

    everywhere = flag(request, "binary_data_output", False)
    asked = request.get("outputs")
    if not asked:
        return dict.fromkeys(outputs, everywhere)
    if not isinstance(asked, list) or not all(isinstance(one, dict) and one.get("name") in list(outputs) for one in asked):
        raise DataError("the request asks for other outputs", f"there are {', '.join(outputs)}")
    return {one["name"]: flag(one, "binary_data", everywhere) for one in asked}
