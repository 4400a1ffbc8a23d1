"""Reading of ONNX files, with the files beside them that hold weights (ONNX's external data)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planish.errors import ModelError, PlanishError, first_line
from planish.files.onnx_nodes import bodies, graphs
from planish.files.reading import require_regular
from planish.files.trust import file_sha256

_RULE = "external data belong to the ONNX file and lie in its folder"


def read_onnx(file: Path) -> Any:
    """Read an ONNX file (``onnx.ModelProto``) with all of its weights.

    Raises:
        ModelError: it cannot be read, or a file with its weights is missing or not whole.
    """
    from onnx.external_data_helper import load_external_data_for_model

    try:
        model = _without_data(file)
        _data_files(model, file)
        load_external_data_for_model(model, str(file.parent))
    except PlanishError:
        raise
    except Exception as error:  # protobuf's own exceptions, and those of reading weights from other files
        raise ModelError(f"{file} cannot be read: {first_line(error)}", "it is an ONNX file, its weights in it or beside it") from error
    return model


def data_files(file: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold weights of it; none for a file that cannot be read, which is reported when it is loaded.

    Raises:
        ModelError: one of them is missing or not whole.
    """
    try:
        return _data_files(_without_data(file), file)
    except PlanishError:
        raise
    except Exception:  # protobuf's own exceptions, and OSError
        return ()


def onnx_sha256(file: Path) -> str:
    """The SHA-256 hash of an ONNX file, in hexadecimal; with external data, the hash of the hashes of all its files.

    Raises:
        ModelError: a file with its weights is missing or not whole.
    """
    hashes = [file_sha256(part) for part in (file, *data_files(file))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _without_data(file: Path) -> Any:
    import onnx

    require_regular(file)
    return onnx.load(str(file), load_external_data=False)


def _data_files(model: Any, file: Path) -> tuple[Path, ...]:
    ends: dict[str, int] = {}  # by location: how many bytes are read
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            end = sum(int(entries[key]) for key in ("offset", "length") if entries.get(key, "").isdecimal())
            ends[location] = max(end, ends.get(location, 0))
    for location, end in ends.items():
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise ModelError(f"{file} keeps weights in {location}, outside of its folder", _RULE, "export it again")
        data = file.parent / location
        if not data.is_file():
            raise ModelError(f"{file} keeps weights in {location}, which is not there", _RULE, f"copy {location} to {file.parent}")
        if (size := data.stat().st_size) < end:
            raise ModelError(f"{data} has {size:,} bytes, and {file.name} reads {end:,}", _RULE, f"copy {location} again")
    return tuple(file.parent / location for location in ends)


def _tensors(model: Any) -> Iterator[Any]:
    """All constants of a model, with those in its functions and in the attributes of nodes."""
    nodes = [node for function in model.functions for node in function.node]
    parts = [*graphs(model.graph), *(part for node in nodes for body in bodies(node) for part in graphs(body))]
    for part in parts:
        yield from part.initializer
        nodes += part.node
    for node in nodes:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
