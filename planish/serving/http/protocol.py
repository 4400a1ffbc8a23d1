"""The Open Inference Protocol, version 2, as used by Triton and KServe clients: conversion between bytes and arrays.

https://github.com/kserve/open-inference-protocol, and two of Triton's extensions, for binary tensors and for classification:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md and extension_classification.md there.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planish.errors import DataError
from planish.serving.model import ServedModel

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels

INPUT = "images"
_DATATYPES = {  # the protocol's names by numpy dtype
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_JSON = 65_536  # maximum bytes of a request's JSON without its numbers
_SLICE = 65_536  # bytes or values of JSON processed at a time; between slices other requests can take the interpreter lock
_MOST_JSON_VALUES = 2_000_000  # values in a response; more must be requested as binary data
_NUMBERS = "\0numbers"  # placeholder for the numbers in the rest of a request's JSON
_WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")


def model_metadata(model: ServedModel, versions: list[str]) -> dict[str, Any]:
    """Return the metadata of a model: versions, inputs and outputs."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": f"planish_{model.bundle.runtime}",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}],
        "outputs": [
            {"name": name, "datatype": _DATATYPES[dtype.name], "shape": [-1, *shape]} for name, (dtype, shape) in model.outputs.items()
        ],
    }


def read_request(body: bytes, header_length: str | None, shape: tuple[int, ...], max_images: int) -> tuple[Pixels, dict[str, Any]]:
    """Return the images of a request, and the request's JSON. Parsing large JSON is slow; call this in a thread.

    Args:
        body: JSON, followed by binary data if ``header_length`` is given.
        header_length: bytes of the JSON; None if the whole body is JSON.
        shape: shape of one image, ``(H, W, C)``.
        max_images: maximum number of images.

    Raises:
        DataError: it is not a valid request, or its images have another shape or type, or are too many.
    """
    length = len(body)
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,18}", header_length) or int(header_length) > len(body):
            raise DataError(f"{HEADER_LENGTH} is {header_length[:20]!r}", f"it is a number of bytes, at most {len(body)} here")
        length = int(header_length)
    request, numbers = _read_json(body[:length] if length < len(body) else body)
    given = request.get("inputs") if isinstance(request, dict) else None
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict) or given[0].get("name") != INPUT:
        raise DataError("the request has other inputs", f"it has one, called {INPUT!r}")
    tensor = given[0]
    found: Any = tensor.get("shape")
    right = isinstance(found, list) and all(type(n) is int for n in found) and tuple(found[1:]) == shape and found[0] > 0
    if not right or tensor.get("datatype") != "UINT8":
        raise DataError(
            f"{INPUT!r} is {str(tensor.get('datatype'))[:20]} {str(found)[:60]}", f"it must be UINT8 [N, {', '.join(map(str, shape))}]"
        )
    if found[0] > max_images:
        raise DataError(f"{str(found[0])[:20]} images", f"a request may bring {max_images}", "send several requests")
    return _pixels(tensor, body[length:], numbers, found), request


def _read_json(text: bytes) -> tuple[Any, bytes]:
    """Return a request's JSON with ``_NUMBERS`` in place of its ``data``, and the text of the numbers.

    Python objects need up to twenty times the memory of their JSON text, so only the short rest is parsed by ``json`` as a whole.
    """
    key = re.compile(rb'"data"\s*:\s*(?=\[)').search(text)
    numbers = b""
    if key is not None:
        ends = [place for mark in (b'"', b"}") if (place := text.find(mark, key.end())) >= 0]
        end = text.rfind(b"]", key.end(), min(ends, default=len(text))) + 1
        if end > 0:
            numbers = text[key.end() : end]
            text = text[: key.end()] + json.dumps(_NUMBERS).encode() + text[end:]
    if len(text) > _MOST_JSON:
        raise DataError(f"{len(text)} bytes of JSON beside the data", f"a request may have {_MOST_JSON}, and 'data' is an array of numbers")
    try:
        return json.loads(text), numbers
    except (ValueError, RecursionError) as error:
        raise DataError(
            "the request is not JSON", f"see the Open Inference Protocol, version 2; before binary data {HEADER_LENGTH} is needed"
        ) from error


def _pixels(tensor: Mapping[str, Any], binary: bytes, numbers: bytes, shape: list[int]) -> Pixels:
    size = _parameters(tensor).get("binary_data_size")
    count = math.prod(shape)
    if size is not None:
        if type(size) is not int or size != len(binary) or size != count:
            raise DataError(f"{len(binary)} bytes of binary data, said to be {str(size)[:20]}", f"the shape needs {count}")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    if tensor.get("data") != _NUMBERS:
        raise DataError("the request has no data", f"'data' is an array of {count} whole numbers from 0 to 255, flat or nested")
    parts = list(_slices(numbers))
    found = sum(map(len, parts))
    if found != count:
        raise DataError(f"{found} values", f"the shape needs {count}")
    return np.concatenate(parts).reshape(shape)


def _slices(numbers: bytes) -> Iterator[Pixels]:
    """Yield an array of numbers in JSON, flat or nested, in pieces."""
    start, last = 0, len(numbers)
    while start < last:
        end = last if last - start <= _SLICE else numbers.find(b",", start + _SLICE) % (last + 1)  # -1 (none) gives the end
        text = numbers[start:end].translate(_WITHOUT_BRACKETS)
        try:
            values = np.asarray(json.loads(b"[%b]" % text))
        except (ValueError, OverflowError) as error:
            raise DataError("the data are not an array of numbers", "they are whole numbers from 0 to 255") from error
        if values.size == 0:
            raise DataError("the data are empty", "they are whole numbers from 0 to 255")
        if values.ndim != 1 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise DataError(f"values of type {values.dtype}, or out of range", "they are whole numbers from 0 to 255")
        yield values.astype(np.uint8)
        start = end + 1


@dataclass(frozen=True)
class OutputPart:
    """How one output is sent.

    Args:
        as_binary: as binary data instead of JSON.
        classes: number of top classes, as ``value:index:label``; 0 sends the values themselves.
    """

    as_binary: bool
    classes: int = 0

    @property
    def is_text(self) -> bool:
        """Whether its numbers are written as text, which is impossible for non-finite values."""
        return not self.as_binary or self.classes > 0


def response_parts(outputs: Outputs, request: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, OutputPart]:
    """Return the requested outputs by name, and how each is sent.

    Args:
        outputs: outputs of the model.
        request: the request's JSON.
        class_names: in the order of the outputs.

    Raises:
        DataError: the request names unknown outputs, more numbers in JSON than the maximum, or classes of an output that has none.
    """
    wanted = _wanted(request, outputs)
    for name, part in wanted.items():
        if part.classes and outputs[name].shape[1:] != (len(class_names),):
            raise DataError(
                f"classification is asked of {name!r}", f"it is of an output with a value for each of {len(class_names)} classes"
            )
    if (count := sum(outputs[name].size for name, part in wanted.items() if not part.as_binary)) > _MOST_JSON_VALUES:
        raise DataError(f"{count} values in JSON are asked for", f"at most {_MOST_JSON_VALUES} are written", "ask for binary data")
    return wanted


def write_response(
    model: ServedModel, outputs: Outputs, wanted: Mapping[str, OutputPart], request: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """Return the body of the response, and the bytes of its JSON if binary data follows. Large JSON is slow; call this in a thread.

    Args:
        model: the model.
        outputs: outputs of the model; those sent as text must be finite, since JSON has no other numbers.
        wanted: see ``response_parts``.
        request: the request's JSON.

    Raises:
        ValueError: a number for JSON is not finite.
    """
    described, blobs = list[str](), list[bytes]()
    for name, part in wanted.items():
        values = np.ascontiguousarray(outputs[name])
        strings = top_classes(values, part.classes, model.bundle.class_names) if part.classes else None
        shape = list(values.shape) if strings is None else [len(values), len(strings) // len(values)]
        head = {"name": name, "datatype": "BYTES" if strings is not None else _DATATYPES[values.dtype.name], "shape": shape}
        if part.as_binary:
            blobs.append(values.tobytes() if strings is None else b"".join(map(_length_and_bytes, strings)))
            described.append(json.dumps(head | {"parameters": {"binary_data_size": len(blobs[-1])}}))
        elif strings is not None:
            described.append(json.dumps(head | {"data": strings}))
        else:
            flat = values.ravel()
            slices = (json.dumps(flat[i : i + _SLICE].tolist(), allow_nan=False)[1:-1] for i in range(0, len(flat), _SLICE))
            described.append(f'{json.dumps(head)[:-1]}, "data": [{", ".join(slices)}]}}')
    answer = {"model_name": model.name, "model_version": model.version}
    if isinstance(request.get("id"), str):
        answer["id"] = request["id"]
    text = f'{json.dumps(answer)[:-1]}, "outputs": [{", ".join(described)}]}}'.encode()
    return b"".join((text, *blobs)), len(text) if blobs else None


def top_classes(values: npt.NDArray[Any], count: int, class_names: Sequence[str]) -> list[str]:
    """Return the top classes of each row, the highest value first, as ``value:index:label``, row after row.

    Args:
        values: ``(N, classes)``.
        count: number of top classes; all classes if there are fewer.
        class_names: in the order of the columns.
    """
    highest = np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :count]
    return [f"{float(row[i]):f}:{i}:{class_names[i]}" for row, places in zip(values, highest, strict=True) for i in places]


def _length_and_bytes(text: str) -> bytes:
    """Encode a string as the protocol's BYTES: length, then UTF-8."""
    data = text.encode("utf-8", "replace")
    return struct.pack("<I", len(data)) + data


def _wanted(request: Mapping[str, Any], outputs: Outputs) -> dict[str, OutputPart]:
    def flag(holder: Mapping[str, Any], key: str, default: bool) -> bool:
        return bool(_parameters(holder).get(key, default))

    everywhere = flag(request, "binary_data_output", False)
    asked = request.get("outputs")
    if not asked:
        return {name: OutputPart(everywhere) for name in outputs}
    if not isinstance(asked, list) or not all(isinstance(one, dict) and one.get("name") in list(outputs) for one in asked):
        raise DataError("the request asks for other outputs", f"there are {', '.join(outputs)}")
    return {one["name"]: OutputPart(flag(one, "binary_data", everywhere), _classes(_parameters(one))) for one in asked}


def _classes(parameters: Mapping[str, Any]) -> int:
    if "class_count" in parameters:
        raise DataError("the parameter 'class_count'", "that is its name in Triton's client", "in a request it is called 'classification'")
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise DataError(f"classification is {str(count)[:20]}", "it is a number of classes")
    return count


def _parameters(holder: Mapping[str, Any]) -> dict[str, Any]:
    found = holder.get("parameters")
    return found if isinstance(found, dict) else {}
