"""The first load of an untrusted model file, in a separate process, since damaged files can crash the libraries that load them.

ONNX Runtime and OpenVINO abort the process on some damaged files, and never return on others; this can neither be caught nor predicted
from the file. So a file is first loaded and run once in another process. Success is recorded in the cache folder by the hash of the file,
and the check is not repeated by any process. Files made by this process, and bundles whose hashes match, are not checked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from planish.devices.isolation import ProcessLimits, call_isolated
from planish.errors import ExportError, PlanishError
from planish.export.runtimes.registry import find, load, run_checked
from planish.files.onnx_reading import data_files
from planish.files.reading import describe, require_regular
from planish.files.trust import file_sha256
from planish.files.workspace import cache_root

_SECONDS, _BYTES_A_SECOND, _VALUES_A_SECOND, _MOST_SECONDS = 60, 5_000_000, 75_000, 900
_MEMORY_BYTES, _TIMES_FILE, _TIMES_INPUT = 4 << 30, 20, 400


def require_first_load(files: Sequence[Path], runtime: str, image_shape: Sequence[int]) -> None:
    """Check that a model can be loaded and runs on one image, without risk for this process.

    Args:
        files: of the model; the first is the one the runtime opens.
        runtime: name of the runtime.
        image_shape: ``(H, W, C)`` of its uint8 input.

    Raises:
        ExportError: it crashes the runtime, takes too long or too much memory, or cannot be opened.
        ModelError: a file with weights of an ONNX file is missing.
        RuntimeMissingError: the runtime is not available.
        TrustError: the file is not trusted, and can run code.
    """
    arguments = {"image_shape": list(image_shape)}
    first_call("planish.export.runtimes.first_load:load_and_run", files, runtime, arguments, math.prod(image_shape))


def load_and_run(files: Sequence[str], runtime: str, image_shape: Sequence[int]) -> None:
    """Load a model and run it on one black image."""
    run_checked(load(files, runtime), np.zeros((1, *image_shape), np.uint8), Path(files[0]).name)


def first_call(function: str, files: Sequence[Path], runtime: str, arguments: Mapping[str, Any], input_values: int) -> None:
    """Call a function that loads and runs a model, in a separate process, and only once for files of the same content.

    Args:
        function: ``package.module:name``; it is called with ``files``, ``runtime`` and the ``arguments``.
        files: of the model.
        runtime: name of the runtime to load them in.
        arguments: further keyword arguments, JSON values.
        input_values: number of input values, for the limits of time and memory.

    Raises:
        PlanishError: see ``require_first_load``.
    """
    try:
        for file in files:
            require_regular(file)
        read = [*files, *(part for file in files if file.suffix == ".onnx" for part in data_files(file))]
        hashes = [file_sha256(file) for file in read]
        size = sum(file.stat().st_size for file in read)
    except OSError as error:
        raise ExportError(f"{files[0]} cannot be read: {describe(error)}", "a model is a file", "export it again") from error
    description = json.dumps([function, runtime, find(runtime).version(), hashes, dict(arguments)], sort_keys=True)
    known = _remembered(hashlib.sha256(description.encode()).hexdigest())
    if known is not None and known.exists():
        return
    call = {"files": [str(file) for file in files], "runtime": runtime, **arguments}
    call_isolated(function, call, f"{files[0]} in {runtime}", limits_for(size, input_values))
    if known is not None:
        with suppress(OSError):
            known.touch()


def limits_for(file_bytes: int, input_values: int) -> ProcessLimits:
    """Limits of time and memory for loading a model and running it once: several times what valid files need.

    Args:
        file_bytes: size of all its files.
        input_values: number of input values, pixels times channels.
    """
    memory = _MEMORY_BYTES + _TIMES_FILE * file_bytes + _TIMES_INPUT * input_values
    seconds = _SECONDS + file_bytes // _BYTES_A_SECOND + input_values // _VALUES_A_SECOND
    return ProcessLimits(min(seconds, _MOST_SECONDS), min(memory, psutil.virtual_memory().total))


def _remembered(name: str) -> Path | None:
    """The file whose existence records that a model was loaded successfully; None without a cache folder."""
    try:
        folder = cache_root(None) / "loaded_models"
        folder.mkdir(exist_ok=True)
    except (PlanishError, OSError):
        return None
    return folder / name
